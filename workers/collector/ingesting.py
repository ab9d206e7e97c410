"""Takes in what devices say: believes nothing unchecked, and counts nothing twice."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy.exc import OperationalError

from jobs.findings import finding_of
from jobs.repository import devices, jobs, measurements, requests
from jobs.states import DeviceState
from latency_probes.messages import (
    Heartbeat,
    Hello,
    Lease,
    MeasureError,
    MeasureResult,
    MessageError,
    Report,
    Settings,
    lease_of,
    parse_report,
)
from latency_probes.replicates import check
from latency_probes.samples import Measurement
from workers.collector.pooling import observe
from workers.collector.streams import Entry
from workers.context import Unit

# Rounds go on when their last answer is in; the answers between only move the progress on.
ADVANCE_EVERY = 4
# Errors that may not come again: what was killed for its neighbours' sake is measured once more.
TRANSIENT = {"crashed", "device_lost", "out_of_memory", "timeout"}
MAX_ATTEMPTS = 3
MAX_SCREENINGS = 2
# A disturbance hardly moves a ratio that is so near to 1.
NEAR_ONE = 0.1
log = logging.getLogger(__name__)


def ingest(unit: Unit, entry: Entry, now: datetime) -> None:
    """Stores one report; one that is malformed, or that the database cannot hold, is noted at its
    device, so that no device can hold up the others. If it answers a request, that ends with an
    error: asked again, the device would say the same."""
    try:
        report = parse_report(entry.text)
        with unit.session.begin_nested():
            _believe(unit, entry.device_id, report, now)
            if not isinstance(report, Heartbeat):
                devices.clear_problem(unit.session, entry.device_id)
    except OperationalError:
        raise
    except Exception as error:
        log.warning("device %s sent what cannot be stored: %s", entry.device_id, error)
        detail = str(error) if isinstance(error, MessageError) else type(error).__name__
        problem = {"title": "The device sent a malformed message", "detail": detail[:500]}
        devices.set_problem(unit.session, entry.device_id, problem)
        if lease := lease_of(entry.text):
            _end(unit, entry.device_id, lease, detail, now)


def _end(unit: Unit, device_id: str, lease: Lease, detail: str, now: datetime) -> None:
    """Ends the request, if the device still holds its lease. A request that cannot be read itself
    is left to the sweep, which takes it back and ends it."""
    try:
        with unit.session.begin_nested():
            _refuse(unit, device_id, lease, detail, now)
    except OperationalError:
        raise
    except Exception:
        log.exception("%s cannot be ended", lease.request_id)


def _refuse(unit: Unit, device_id: str, lease: Lease, detail: str, now: datetime) -> None:
    message = f"the server refused the result: {detail}"[:2000]
    outcome = MeasureError(kind="invalid", message=message)
    _store(unit, device_id, MeasureResult(**lease.model_dump(), outcome=outcome), now)


def _believe(unit: Unit, device_id: str, report: Report, now: datetime) -> None:
    if isinstance(report, Heartbeat):
        devices.heartbeat(unit.session, device_id, DeviceState(report.state), now)
    elif isinstance(report, Hello):
        capabilities = report.capabilities.model_dump(mode="json")
        devices.announce(unit.session, device_id, capabilities)
    else:
        _store(unit, device_id, report, now)


def _store(unit: Unit, device_id: str, result: MeasureResult, now: datetime) -> None:
    request = requests.find(unit.session, result.request_id)
    is_wanted = request is not None and (
        request.job_id is None or jobs.lock(unit.session, request.job_id) is not None
    )
    if request is None or not is_wanted:
        _drop(unit, device_id, result)
        return
    if measurements.of_lease(unit.session, request.id, device_id, result.lease_token) is not None:
        return  # delivered again
    if not requests.may_answer(
        unit.session,
        request,
        attempt=result.attempt,
        lease_token=result.lease_token,
        device_id=device_id,
    ):
        _drop(unit, device_id, result)
        return
    if isinstance(result.outcome, Measurement):
        check(result.outcome, Settings.model_validate(request.settings))
    counted = requests.complete(
        unit.session,
        result.request_id,
        attempt=result.attempt,
        lease_token=result.lease_token,
        device_id=device_id,
        finding=finding_of(result.outcome),
        now=now,
    )
    if counted and is_worth_another_try(result, is_check=request.check_id is not None):
        requests.reopen(unit.session, request.id)
    elif counted and request.job_id is not None:
        observe(unit, request, request.job_id, device_id, now)
    if (
        counted
        and request.job_id
        and requests.open_count(unit.session, request.job_id) % ADVANCE_EVERY == 0
    ):
        unit.send("advance", request.job_id)


def _drop(unit: Unit, device_id: str, result: MeasureResult) -> None:
    """Counts an answer that nobody asked this device for. It is logged ever more seldom, so that
    no device fills the log."""
    dropped = devices.count_dropped(unit.session, device_id)
    if dropped & (dropped - 1) == 0:
        log.warning(
            "device %s answered %s under a lease that it was not given; %d answers dropped so far",
            device_id, result.request_id, dropped,
        )  # fmt: skip


def is_worth_another_try(result: MeasureResult, *, is_check: bool = False) -> bool:
    """Whether the device failed, or was too disturbed, in a way that may not come again, and that
    has not come too often: only a strict measurement must be beyond doubt. A disturbance is what
    a check looks for."""
    outcome = result.outcome
    if isinstance(outcome, MeasureError):
        return outcome.kind in TRANSIENT and result.attempt < MAX_ATTEMPTS
    if is_check or outcome.verdict == "ok":
        return False
    if outcome.kind == "strict":
        return result.attempt < MAX_ATTEMPTS
    is_off = outcome.verdict == "throttled" and abs(outcome.ratio - 1.0) > NEAR_ONE
    return is_off and result.attempt < MAX_SCREENINGS
