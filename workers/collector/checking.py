"""Moves checks of devices on: one measurement at a time, and the result after the last.

Safe to run at any time, any number of times: what a check is at lies in its requests alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import OperationalError

from jobs import resolution
from jobs.checking import CheckSettings
from jobs.repository import checks, devices, measurements, requests
from jobs.states import SHUT_OUT, CheckState, DeviceState, RequestState
from jobs.tables import Check, Device, Measurement, Request
from latency_probes import samples
from latency_probes.messages import Settings, Target
from workers.collector.dispatching import can_run, missing
from workers.context import Context, Unit

log = logging.getLogger(__name__)
HISTORY = 60  # measurements
Step = Callable[[Unit], None]
_OPEN = (RequestState.PENDING, RequestState.DISPATCHED)


def check_devices(context: Context) -> None:
    """One look at every check that has not ended; writes only where something is new."""
    with context.read() as session:
        live = [(check, checks.requests_of(session, check.id)) for check in checks.live(session)]
        every = devices.all_devices(session, removed=True) if live else ()
        known = {device.id: device for device in every}
    for check, asked in live:
        _take(context, check, asked, known[check.device_id])


def _take(context: Context, check: Check, asked: Sequence[Request], device: Device) -> None:
    """Takes the next step; a check that cannot ends, so that it cannot hold up the others."""
    try:
        step = _next(check, asked, device, context.clock())
        if step is not None:
            with context.unit() as unit:
                step(unit)
    except OperationalError:
        raise
    except Exception as error:
        log.exception("%s could not go on", check.id)
        reason = f"the check could not go on: {error}"
        with context.unit() as unit:
            _fail(unit, check, reason, context.clock())


def _next(check: Check, asked: Sequence[Request], device: Device, now: datetime) -> Step | None:
    """What is to be done with a check now; None: wait."""
    settings = CheckSettings.model_validate(check.settings)
    trials = settings.trials()
    ended = [each for each in asked if each.state not in _OPEN]
    if device.state in SHUT_OUT:
        return lambda unit: _fail(unit, check, "the device was revoked", now)
    if ended and ended[0].state == RequestState.FAILED:
        return lambda unit: _fail(unit, check, _reason(unit, ended[0]), now)
    if len(ended) == len(trials):
        return lambda unit: _conclude(unit, check, now)
    if len(ended) == len(asked) and _is_due(asked, settings, now):
        return lambda unit: _ask(unit, check, *trials[len(asked)], now)
    return _news(check, asked, len(ended), device)


def _is_due(asked: Sequence[Request], settings: CheckSettings, now: datetime) -> bool:
    return not asked or asked[-1].created_at + timedelta(seconds=settings.every_s) <= now


def _ask(unit: Unit, check: Check, purpose: str, settings: Settings, now: datetime) -> None:
    requests.add(
        unit.session,
        None,
        purpose,
        check_id=check.id,
        skeleton_digest=check.skeleton_digest,
        reference_digest=check.skeleton_digest,
        selector=f"id:{check.device_id}",
        target=Target.model_validate(check.target),
        settings=settings,
        now=now,
    )


def _news(check: Check, asked: Sequence[Request], ended: int, device: Device) -> Step | None:
    """Says at the check how far it is and what it waits for, where that is new."""
    last = asked[-1]
    waits = last.state == RequestState.PENDING and not (
        is_present(device) and can_run(device, last)
    )
    waiting_for = missing(last) if waits else None
    is_begun = last.state != RequestState.PENDING or ended > 0
    state = CheckState.RUNNING if is_begun else check.state
    progress = {"ended": ended, "of": (check.progress or {}).get("of")}
    if (state, progress, waiting_for) == (check.state, check.progress, check.waiting_for):
        return None
    return lambda unit: _tell(unit, check, state, progress, waiting_for)


def _tell(
    unit: Unit, check: Check, state: CheckState, progress: dict[str, Any], waiting_for: str | None
) -> None:
    checks.report(unit.session, check.id, state, progress, waiting_for)


def is_present(device: Device) -> bool:
    """Whether it may be given work."""
    return device.state in (DeviceState.ONLINE, DeviceState.BUSY) and not device.drain_requested


def _fail(unit: Unit, check: Check, reason: str, now: datetime) -> None:
    checks.fail(unit.session, check.id, reason, now)


def _conclude(unit: Unit, check: Check, now: datetime) -> None:
    of = (check.progress or {}).get("of")
    _tell(unit, check, CheckState.RUNNING, {"ended": of, "of": of}, None)
    rows = measurements.for_check(unit.session, check.id)
    errors = [_words(row) for row in rows if row.error_kind is not None]
    trials = [
        resolution.Trial.of(_samples(row), row.created_at.isoformat())
        for row in rows
        if row.error_kind is None
    ]
    if len(trials) < 2:
        _fail(unit, check, errors[-1] if errors else "nothing was measured", now)
        return
    result = resolution.document(trials) | {"errors": errors, "history": _history(unit, check)}
    checks.finish(unit.session, check.id, result, now)


def _history(unit: Unit, check: Check) -> list[dict[str, Any]]:
    """What the device's sentinel and references took, oldest first."""
    rows = measurements.of_device(unit.session, check.device_id, HISTORY)
    return [
        resolution.moment(
            row.created_at.isoformat(), row.reference_digest, row.reference_ms, row.raw or {}
        )
        for row in reversed(rows)
    ]


def _samples(row: Measurement) -> samples.Measurement:
    return samples.Measurement.model_validate((row.raw or {}) | {"conditions": row.conditions})


def _reason(unit: Unit, request: Request) -> str:
    found = measurements.find(unit.session, request.measurement_id or "")
    return "its first measurement was given up" if found is None else _words(found)


def _words(row: Measurement) -> str:
    return f"{row.error_kind}: {row.error_message}"
