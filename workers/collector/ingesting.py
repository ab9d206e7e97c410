"""Takes in what devices say: believes nothing that it has not checked, and counts nothing twice."""

from __future__ import annotations

import logging
from datetime import datetime

from jobs.repository import devices, requests
from jobs.repository.measurements import Finding
from jobs.states import DeviceState
from latency_probes.messages import (
    Heartbeat,
    MeasureError,
    MeasureResult,
    MessageError,
    parse_report,
)
from latency_probes.samples import PROTOCOL, Measurement
from workers.collector.streams import Entry
from workers.context import Unit

log = logging.getLogger(__name__)


def ingest(unit: Unit, entry: Entry, now: datetime) -> None:
    """Stores one report; a malformed one is noted at its device and dropped."""
    try:
        report = parse_report(entry.text)
    except MessageError as error:
        log.warning("device %s sent what is no report: %s", entry.device_id, error)
        problem = {"title": "The device sent a malformed message", "detail": str(error)[:500]}
        devices.set_problem(unit.session, entry.device_id, problem)
        return
    if isinstance(report, Heartbeat):
        devices.heartbeat(unit.session, entry.device_id, DeviceState(report.state), now)
    else:
        _store(unit, entry.device_id, report, now)


def _store(unit: Unit, device_id: str, result: MeasureResult, now: datetime) -> None:
    request = requests.find(unit.session, result.request_id)
    if request is None or request.device_id is None:
        log.warning("device %s answered the unknown request %s", device_id, result.request_id)
        return
    counted = requests.complete(
        unit.session,
        result.request_id,
        attempt=result.attempt,
        lease_token=result.lease_token,
        device_id=device_id,
        finding=finding(result.outcome),
        now=now,
    )
    if counted:
        unit.send("advance", request.job_id)


def finding(outcome: Measurement | MeasureError) -> Finding:
    """What a device found, as the database keeps it, raw samples included."""
    if isinstance(outcome, MeasureError):
        return Finding(error_kind=outcome.kind, error_message=outcome.message, protocol=PROTOCOL)
    document = outcome.model_dump(mode="json")
    conditions = document.pop("conditions") | {"reasons": document["reasons"]}
    return Finding(
        runtime_version=outcome.runtime_version,
        protocol=outcome.protocol,
        ratio=outcome.ratio,
        ratio_low=outcome.ratio_low,
        ratio_high=outcome.ratio_high,
        latency_ms=outcome.latency_ms,
        reference_ms=outcome.reference_ms,
        verdict=outcome.verdict,
        raw=document,
        conditions=conditions,
    )
