"""Gives pending requests to devices: the least loaded one that is present and able."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from jobs.errors import JobsError
from jobs.pools import Pool
from jobs.repository import devices, events, jobs, requests, skeletons
from jobs.repository.measurements import Finding
from jobs.repository.pools import JOIN
from jobs.selectors import Selector
from jobs.states import JobState
from jobs.tables import Device, Request
from latency_probes.messages import MeasureRequest, Settings, Target, Workload
from workers.collector.pooling import invite, pools_of
from workers.collector.streams import Streams
from workers.context import Context
from workers.retrying import words

IN_FLIGHT = 2
ALONE = Pool()
UNKNOWN_KIND = {
    "title": "What the device announced cannot be read",
    "detail": "it gets no work; start its agent again, which announces it anew",
}
log = logging.getLogger(__name__)


def dispatch(context: Context, streams: Streams) -> int:
    """Assigns what can be assigned and sends it; says at each job what it waits for.

    Returns:
        How many requests were sent.
    """
    with context.read() as session:
        asked, unsent = requests.pending(session), requests.unsent(session)
        there, loads = devices.present(session), requests.loads(session)
    pending = [each for each in asked if _is_readable(context, each)]
    present = [each for each in there if _tells_what_it_is(context, each)]
    with context.read() as session:
        pools = pools_of(session, pending, present)
    placed = place(pending, present, loads, pools)
    if placed:
        with context.unit() as unit:
            now, lease_s = context.clock(), context.settings.request_lease_s
            assigned = [
                requests.assign(unit.session, request_id, device_id, now, lease_s)
                for request_id, device_id in placed.items()
            ]
        unsent = [*unsent, *(request for request in assigned if request is not None)]
    for request in unsent:
        try:
            send(context, streams, request)
        except (JobsError, LookupError, ValidationError) as error:
            _fail(context, request, f"the server cannot send it: {error}")
    invite(context, [each for each in pending if each.id not in placed], present)
    _explain(context, pending, present, pools)
    return len(unsent)


def _is_readable(context: Context, request: Request) -> bool:
    """Whether the request can be read; one that cannot ends here, and holds up no other."""
    try:
        Selector.parse(request.selector)
        Target.model_validate(request.target)
        Settings.model_validate(request.settings)
    except ValueError as error:
        log.error("%s cannot be read: %s", request.id, error)
        with context.unit() as unit:
            requests.give_up(unit.session, request.id)
            if request.job_id:
                data = {"purpose": request.purpose, "reason": words(error)}
                events.append(unit.session, request.job_id, "unreadable", data)
                unit.send("advance", request.job_id)
        return False
    return True


def _tells_what_it_is(context: Context, device: Device) -> bool:
    """Whether what the device announced can be read; one that cannot gets no work, and is told."""
    told = {"runtimes": None} if device.capabilities is None else device.capabilities
    runtimes, cores = told.get("runtimes", {}), told.get("cores", 1)
    is_known = (
        isinstance(device.labels, dict)
        and isinstance(cores, int)
        and isinstance(runtimes, dict)
        and all(isinstance(each, dict) and "providers" in each for each in runtimes.values())
    )
    if not is_known and device.problem != UNKNOWN_KIND:
        with context.unit() as unit:
            devices.set_problem(unit.session, device.id, UNKNOWN_KIND)
    return is_known


def place(
    pending: Sequence[Request],
    present: Sequence[Device],
    loads: Mapping[str, int],
    pools: Mapping[str | None, Pool] = MappingProxyType({}),
) -> dict[str, str]:
    """Which request goes to which device, oldest first, at most two at a time on each.

    Args:
        pools: Of the jobs that are measured by several devices, by job.
    """
    load = {device.id: loads.get(device.id, 0) for device in present}
    placed = {}
    for request in pending:
        pool = pools.get(request.job_id, ALONE)
        able = [d for d in present if load[d.id] < IN_FLIGHT and can_run(d, request, pool)]
        if able:
            device = min(able, key=lambda d: (load[d.id], d.id))
            load[device.id] += 1
            placed[request.id] = device.id
    return placed


def can_run(device: Device, request: Request, pool: Pool = ALONE) -> bool:
    """Whether the selector accepts the device and it announced the runtime and provider."""
    selector = Selector.parse(request.selector)
    if selector.kind == "pool":
        is_accepted = pool.serves(device.id, selector.name)
    else:
        is_accepted = selector.accepts(device.id, device.labels, device.capabilities)
    if not is_accepted:
        return False
    runtimes: Mapping[str, Any] = device.capabilities.get("runtimes", {})
    runtime = runtimes.get(request.target["runtime"])
    if runtime is None or request.target["provider"] not in runtime["providers"]:
        return False
    return bool(request.target["threads"] <= device.capabilities.get("cores", 1))


def send(context: Context, streams: Streams, request: Request) -> None:
    """Puts an assigned request into its device's stream and notes the entry."""
    if request.device_id is None or request.lease_token is None:
        raise LookupError(f"{request.id} must be assigned to be sent, but is not")
    message = MeasureRequest(
        request_id=request.id,
        attempt=request.attempt,
        lease_token=request.lease_token,
        candidate=_workload(context, request.skeleton_digest, inline=True),
        reference=_workload(context, request.reference_digest, inline=False),
        target=Target.model_validate(request.target),
        settings=Settings.model_validate(request.settings),
    )
    stream_id = streams.send(request.device_id, message)
    with context.unit() as unit:
        requests.sent(unit.session, request.id, request.attempt, stream_id)


def _fail(context: Context, request: Request, message: str) -> None:
    """Ends a request that cannot be sent, so that it does not hold up the others."""
    log.error("%s: %s", request.id, message)
    with context.unit() as unit:
        requests.complete(
            unit.session,
            request.id,
            attempt=request.attempt,
            lease_token=request.lease_token or "",
            device_id=request.device_id or "",
            finding=Finding(error_kind="invalid", error_message=message[:2000]),
            now=context.clock(),
        )
        if request.job_id:
            unit.send("advance", request.job_id)


def _workload(context: Context, digest: str, *, inline: bool) -> Workload:
    with context.read() as session:
        row = skeletons.find(session, digest)
    if row is None:
        raise LookupError(f"skeleton {digest} must be stored, but is not")
    if not inline:
        return Workload(digest=digest, size=row.size)
    return Workload.of(context.store.get(row.location, sha256=digest))


def _explain(
    context: Context,
    pending: Sequence[Request],
    present: Sequence[Device],
    pools: Mapping[str | None, Pool],
) -> None:
    """Says at each job which device it waits for, or that it waits no more. No job waits for one
    that was asked to join."""
    waiting = {
        request.job_id: missing(request)
        for request in pending
        if not request.purpose.startswith(JOIN)
        and not any(
            can_run(device, request, pools.get(request.job_id, ALONE)) for device in present
        )
    }
    with context.read() as session:
        told = {
            job.id: (job.waiting_for, waiting.get(job.id) or job.trouble)
            for job in jobs.live(session)
            if job.state != JobState.QUEUED
        }
    news = [(job_id, text) for job_id, (before, text) in told.items() if text != before]
    if news:
        with context.unit() as unit:
            for job_id, text in news:
                jobs.set_waiting(unit.session, job_id, text)


def missing(request: Request) -> str:
    """What a job waits for, in words."""
    target, selector = request.target, Selector.parse(request.selector)
    which = "any device" if selector.kind == "any" else f"a device that is {selector}"
    if selector.kind == "where":
        which = f"a device where {selector.name}"
    if selector.kind == "pool":
        which = f"a device that is id:{selector.name}, or of its pool,"
    return (
        f"{which} that is online and offers {target['runtime']} with {target['provider']} "
        f"on {target['threads']} thread(s)"
    )
