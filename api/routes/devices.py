"""Devices: enrolled by their agent with a one-off token, listed, drained and revoked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.broker import device_url
from api.problems import Problem, conflict, not_found
from api.routes.access import Keeper, Reader
from api.routes.admission import AdmittedRoute
from api.routes.answers import Listing, conditional
from api.routes.edge import Composed, Reading, Writing
from api.routes.views import DeviceView, TokenView
from jobs import removal
from jobs.columns import database_time
from jobs.repository import devices, pools
from jobs.states import DeviceState
from latency_probes.messages import Enrolment, EnrolmentReply

TOKEN_LIFE_MIN = 60

router = APIRouter(prefix="/v1/devices", tags=["devices"], route_class=AdmittedRoute)


class TokenRequest(BaseModel):
    """How long an enrolment token may wait to be used."""

    model_config = ConfigDict(extra="forbid")

    minutes: int = Field(default=TOKEN_LIFE_MIN, ge=1, le=60 * 24 * 30)


@router.post("/tokens", status_code=201)
def create_token(
    edge: Writing, caller: Keeper, body: Annotated[TokenRequest | None, Body()] = None
) -> TokenView:
    """Make a token with which one device may enrol, once. It is shown in this answer only."""
    expires_at = database_time(edge.session) + timedelta(minutes=(body or TokenRequest()).minutes)
    token = devices.create_token(edge.session, expires_at)
    return TokenView(token=token, expires_at=expires_at)


@router.post("/enrol", status_code=201)
def enrol(enrolment: Enrolment, services: Composed, edge: Writing) -> EnrolmentReply:
    """Register a device with its token; answers its id, its secret and where its work will be.

    The secret is shown in this answer only. The broker knows the device as soon as the collector
    has issued its access rules, a few seconds later: the agent retries until then.
    """
    enrolled = devices.enrol(
        edge.session,
        enrolment.token,
        name=enrolment.name,
        labels=enrolment.labels,
        capabilities=enrolment.capabilities.model_dump(mode="json"),
        now=database_time(edge.session),
    )
    if enrolled is None:
        detail = "The token is unknown, expired or used: get one from POST /v1/devices/tokens."
        raise Problem(403, "enrolment-refused", detail)
    device, secret = enrolled
    redis_url = services.access.device_redis_url or services.settings.redis_url
    return EnrolmentReply(
        device_id=device.id,
        secret=secret,
        redis_url=device_url(redis_url, device.id, secret),
        heartbeat_s=services.settings.heartbeat_s,
        lease_s=services.settings.request_lease_s,
    )


@router.get("", response_model=Listing[DeviceView])
def list_devices(request: Request, session: Reading, caller: Reader) -> Response:
    """Every device, revoked ones too, oldest first."""
    items = [DeviceView.model_validate(row) for row in devices.all_devices(session)]
    return conditional(request, Listing[DeviceView](items=items))


@router.get("/{device_id}", response_model=DeviceView)
def read_device(device_id: str, request: Request, session: Reading, caller: Reader) -> Response:
    """One device: its state, what it is and has, when it was last seen, which jobs it joined in
    measuring, and why it was refused or set aside."""
    device = view(session, device_id)
    told = {"pools": pools.of_device(session, device.id)}
    return conditional(request, device.model_copy(update=told))


@router.post("/{device_id}/drain")
def drain(device_id: str, edge: Writing, caller: Keeper) -> DeviceView:
    """Give the device no more work; what it measures now is finished."""
    return _changed(edge.session, device_id, devices.drain)


@router.post("/{device_id}/resume")
def resume(device_id: str, edge: Writing, caller: Keeper) -> DeviceView:
    """Take a drain back."""
    return _changed(edge.session, device_id, devices.resume)


@router.post("/{device_id}/revoke")
def revoke(device_id: str, edge: Writing, caller: Keeper) -> DeviceView:
    """Shut the device out for good; a job that it was measuring fails and says so."""
    known = view(edge.session, device_id).id
    devices.revoke(edge.session, known)
    return view(edge.session, known)


@router.delete("/{device_id}", status_code=204)
def remove_device(device_id: str, edge: Writing, caller: Keeper) -> None:
    """Shut the device out for good, and show it no more; what it measured stays readable.

    Refused where a job or a check that has not ended is measured by it or waits for it alone,
    unless it is revoked already.
    """
    removal.remove_device(edge.session, view(edge.session, device_id).id)


def view(session: Session, id_or_name: str) -> DeviceView:
    """The device with this id or, failing that, this name, as the API shows it; 404 where there
    is none, 409 where several have the name."""
    device = devices.find(session, id_or_name)
    if device is not None and device.state != DeviceState.REMOVED:
        return DeviceView.model_validate(device)
    named = devices.named(session, id_or_name)
    if len(named) > 1:
        ids = [each.id for each in named]
        detail = f"Several devices have the name {id_or_name!r}: name one of {', '.join(ids)}."
        raise conflict("ambiguous-name", detail, ids=ids)
    if not named:
        known = [each.name for each in devices.all_devices(session)]
        raise not_found("device", id_or_name, "GET /v1/devices lists them.", known)
    return DeviceView.model_validate(named[0])


def _changed(
    session: Session, device_id: str, change: Callable[[Session, str], Any]
) -> DeviceView:
    device = view(session, device_id)
    if device.state == DeviceState.REVOKED:
        detail = f"Device {device_id} is revoked for good: enrol it again with a new token."
        raise conflict("device-revoked", detail)
    change(session, device.id)
    return view(session, device.id)
