"""Finds what was lost on the way and sends it again; everything sent is safe to run twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from jobs.repository import datasets, devices, jobs, models, requests, tasks
from jobs.repository.measurements import Finding
from jobs.states import DeviceState
from jobs.tables import Device, Request
from workers.collector.checking import is_present
from workers.collector.streams import Streams
from workers.context import Context, Unit

STALE_S = 15.0
# A request that takes one device after the other down with it is not handed out for ever.
MAX_LOSSES = 8
CHECK_S = 60.0


def sweep(context: Context, streams: Streams) -> None:
    """One round over expired leases, silent devices, lost messages and stopped jobs."""
    silence(context)
    reassign(context, streams)
    tidy(context, streams)
    resend(context)


def silence(context: Context) -> None:
    """Marks devices that have not been heard of as offline."""
    before = context.clock() - timedelta(seconds=context.settings.silence_s)
    with context.unit() as unit:
        devices.silence(unit.session, before)


def reassign(context: Context, streams: Streams) -> None:
    """Takes expired requests back, unless the device still holds them. One that drains finishes
    what it has begun, and gets back to others what only waits in its queue."""
    lease_s = context.settings.request_lease_s
    with context.read() as session:
        expired = requests.expired(session, context.clock())
        alive = {device.id: device for device in devices.alive(session)}
    for request in expired:
        held = is_held(streams, request, alive, lease_s)
        if not held and request.device_id is not None:
            streams.forget(request.device_id, request.stream_id)
        with context.unit() as unit:
            if held:
                requests.renew(unit.session, request.id, request.attempt, context.clock(), lease_s)
            elif request.attempt < MAX_LOSSES:
                requests.release(unit.session, request.id, request.attempt)
            else:
                give_up(unit, request, context.clock())


def is_held(
    streams: Streams, request: Request, alive: Mapping[str, Device], lease_s: float
) -> bool:
    """Whether the device lives and still has the request."""
    device = alive.get(request.device_id or "")
    if device is None:
        return False
    queued = is_present(device)
    return streams.is_held(device.id, request.stream_id, lease_s, queued=queued)


def tidy(context: Context, streams: Streams) -> None:
    """Empties the devices' queues of what has been answered or is not wanted any more, and drops
    those of removed devices."""
    with context.read() as session:
        wanted = requests.entries(session)
        known = devices.all_devices(session, removed=True)
    for device in known:
        if device.state == DeviceState.REMOVED:
            streams.drop(device.id)
        else:
            streams.tidy(device.id, wanted.get(device.id, set()))


def give_up(unit: Unit, request: Request, now: datetime) -> None:
    """Ends a request whose devices were lost too often, with a typed error."""
    message = f"the device was lost in attempt {request.attempt}, which was the last one"
    requests.complete(
        unit.session,
        request.id,
        attempt=request.attempt,
        lease_token=request.lease_token or "",
        device_id=request.device_id or "",
        finding=Finding(error_kind="device_lost", error_message=message),
        now=now,
    )
    if request.job_id:
        unit.send("advance", request.job_id)


def resend(context: Context) -> None:
    """Sends the steps again whose message is lost; what waits in a queue is not."""
    waiting = context.waiting()  # before the rows: what begins in between is not sent twice
    now = context.clock()
    before = now - timedelta(seconds=STALE_S)
    with context.unit() as unit:
        lost = (*tasks.expired(unit.session, now), *tasks.stale(unit.session, before))
        for task in (*lost, *tasks.due(unit.session, now)):
            if ("run_task", task.id) in waiting:
                continue
            tasks.requeued(unit.session, task.id, now)
            unit.send("run_task", task.id)
        for job in jobs.live(unit.session):
            is_due = job.try_at is None or job.try_at <= now
            is_wanted = job.try_at or job.cancel_requested or job.stop_requested
            if is_due and (is_wanted or job.updated_at < before):
                unit.send("advance", job.id)
        overdue = now - timedelta(seconds=CHECK_S)
        for model in models.unchecked(unit.session, free_at=now):
            if model.updated_at < overdue:
                model.updated_at = now
                unit.send("check_model", model.id)
        for dataset in datasets.unchecked(unit.session, free_at=now):
            if dataset.updated_at < overdue:
                dataset.updated_at = now
                unit.send("check_dataset", dataset.id)
