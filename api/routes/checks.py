"""Checks of devices: one model measured against itself, to know what a device can resolve."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.problems import conflict, invalid_field, not_found
from api.routes.access import Keeper, Reader
from api.routes.admission import AdmittedRoute
from api.routes.answers import After, IdempotencyKey, Limit, Listing, conditional, once
from api.routes.devices import view as device_view
from api.routes.edge import Composed, Edge, Reading, Services, Writing
from api.routes.views import CheckView, DeviceView
from jobs.artifacts import skeleton_name
from jobs.checking import BUILT_IN, CheckSettings, built_in
from jobs.columns import database_time
from jobs.repository import checks, models, skeletons
from jobs.repository.checks import Known
from jobs.states import DeviceState
from jobs.tables import Check
from latency_probes.messages import AUTO, Name, Target

router = APIRouter(prefix="/v1", tags=["devices"], route_class=AdmittedRoute)


class CheckRequest(BaseModel):
    """What to measure, and how. Without ``model`` it is the reference that the device measured
    last, or a small model that comes with Secateur; what else is left out is as it was then."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, max_length=100)
    runtime: Name | None = None
    provider: Name | None = None
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    quick: bool = False


@router.post("/devices/{device_id}/checks", status_code=202, response_model=CheckView)
def start_check(
    device_id: str,
    services: Composed,
    edge: Writing,
    caller: Keeper,
    body: Annotated[CheckRequest | None, Body()] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start a check of a device; poll its ``Location``.

    The model is measured against itself a dozen times, each time under a lease of its own, as a
    job's candidates are; the truth is a ratio of 1. A check waits for its device to be present
    and to offer the runtime, and says so. One check of a device runs at a time.
    """
    wanted = body or CheckRequest()

    def work() -> tuple[str, BaseModel]:
        check = _create(services, edge, device_id, wanted)
        return f"/v1/checks/{check.id}", CheckView.model_validate(check)

    scope = f"POST /v1/devices/{device_id}/checks {caller.name}"
    return once(edge, scope, idempotency_key, wanted.model_dump(mode="json"), work)


@router.get("/devices/{device_id}/checks", response_model=Listing[CheckView])
def list_checks(
    device_id: str,
    request: Request,
    session: Reading,
    caller: Reader,
    after: After = None,
    limit: Limit = 50,
) -> Response:
    """The checks of a device, newest first."""
    device = device_view(session, device_id)
    page = checks.page(session, device.id, after=after, limit=limit)
    items = [CheckView.model_validate(row) for row in page.items]
    return conditional(request, Listing[CheckView](items=items, next=page.next))


@router.get("/checks/{check_id}", response_model=CheckView)
def read_check(check_id: str, request: Request, session: Reading, caller: Reader) -> Response:
    """One check: its progress, what it waits for, what it found. Poll by ETag."""
    return conditional(request, CheckView.model_validate(_found(session, check_id)))


@router.post("/checks/{check_id}/cancel")
def cancel_check(check_id: str, edge: Writing, caller: Keeper) -> CheckView:
    """End a check without a result. One that has ended stays as it is."""
    _found(edge.session, check_id)
    checks.fail(edge.session, check_id, "it was cancelled", database_time(edge.session))
    return CheckView.model_validate(_found(edge.session, check_id))


def _found(session: Session, check_id: str) -> Check:
    check = checks.find(session, check_id)
    if check is None:
        raise not_found("check", check_id, "GET /v1/devices/{id}/checks lists those of a device.")
    return check


def _create(services: Services, edge: Edge, device_id: str, wanted: CheckRequest) -> Check:
    device = device_view(edge.session, device_id)
    if device.state == DeviceState.REVOKED:
        detail = f"Device {device_id} is revoked for good: enrol it again with a new token."
        raise conflict("device-revoked", detail)
    for running in checks.live(edge.session, device.id):
        detail = f"A check of this device has not ended: wait for it at /v1/checks/{running.id}."
        raise conflict("check-running", detail, check=running.id)
    known = _known(edge.session, device.id, wanted.model) or _built_in(services, edge, device)
    return checks.create(
        edge.session,
        device.id,
        workload=known.model,
        skeleton_digest=known.digest,
        target=_target(device, known.target, wanted),
        settings=CheckSettings.quick() if wanted.quick else CheckSettings(),
    )


def _known(session: Session, device_id: str, name: str | None) -> Known | None:
    if name is None:
        return checks.last_reference(session, device_id)
    model = models.find(session, name)
    if model is None:
        raise invalid_field("model", f"must name a known model, but got {name!r}")
    known = checks.dense_skeleton(session, model.id)
    if known is None:
        detail = (
            f"The dense skeleton of {model.name} is not stored yet: the first job on it stores "
            "it. Submit one, or check without a model."
        )
        raise conflict("skeleton-unknown", detail)
    return known


def _built_in(services: Services, edge: Edge, device: DeviceView) -> Known:
    """The model of the package, in the store, and a target that the device offers."""
    digest, model = built_in()
    # The row first: it keeps the sweep from what is stored next.
    skeletons.add(edge.session, digest, len(model), skeleton_name(digest))
    services.store.put(skeleton_name(digest), model, sha256=digest)
    target, offered = Target(), device.capabilities.get("runtimes", {})
    runtime = target.runtime if target.runtime in offered else next(iter(offered), target.runtime)
    return Known(BUILT_IN, digest, target.model_copy(update={"runtime": runtime}))


def _target(device: DeviceView, base: Target, wanted: CheckRequest) -> Target:
    """`base` with what was asked for; the provider is one of the runtime's."""
    if wanted.runtime == AUTO:
        raise invalid_field("runtime", "must be one runtime of the device, but got 'auto'")
    runtime = wanted.runtime or base.runtime
    offered = device.capabilities.get("runtimes", {}).get(runtime, {}).get("providers", [])
    provider = base.provider if base.provider in offered else next(iter(offered), base.provider)
    return Target(
        runtime=runtime,
        provider=wanted.provider or provider,
        batch_size=base.batch_size,
        threads=wanted.threads or base.threads,
    )
