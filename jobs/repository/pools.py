"""The pools of jobs, as their logs tell them: who joined, and who was set aside and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.pools import Pool
from jobs.repository import events
from jobs.tables import Device, Event, Request

JOINED = "device_joined"
REFUSED = "device_refused"
ASIDE = "device_aside"
DRIFTED = "device_drifted"
JOIN = "join:"


def join_purpose(device_id: str) -> str:
    """The request by which a device shows that it may join: the dense model against itself."""
    return f"{JOIN}{device_id}"


def note(
    session: Session,
    job_id: str,
    kind: str,
    device: Device,
    data: Mapping[str, Any],
    now: datetime,
) -> None:
    """Writes into the job's log what became of a device; that is what makes it so."""
    told = {"device": device.id, "name": device.name, **data}
    events.append(session, job_id, kind, told, now=now)


def of_jobs(session: Session, job_ids: Collection[str]) -> dict[str, Pool]:
    """The pools of these jobs; jobs that one device measures alone are left out."""
    if not job_ids:
        return {}
    kinds = (JOINED, ASIDE, DRIFTED)
    statement = (
        select(Event)
        .where(Event.job_id.in_(job_ids), Event.kind.in_(kinds))
        .order_by(Event.job_id, Event.number)
    )
    told: dict[str, list[Event]] = defaultdict(list)
    for event in session.scalars(statement):
        told[event.job_id].append(event)
    return {job_id: _pool(log) for job_id, log in told.items()}


def _pool(log: Sequence[Event]) -> Pool:
    def values(kind: str, key: str) -> dict[str, Any]:
        return {each.data["device"]: each.data[key] for each in log if each.kind == kind}

    return Pool(
        baselines=values(JOINED, "reference_ms"),
        aside=values(ASIDE, "reason"),
        drifted=values(DRIFTED, "reason"),
        names={each.data["device"]: each.data["name"] for each in log},
    )


def of_job(session: Session, job_id: str) -> Pool:
    """The pool of one job; an empty one where one device measures it alone."""
    return of_jobs(session, [job_id]).get(job_id, Pool())


def of_device(session: Session, device_id: str, limit: int = 10) -> list[dict[str, Any]]:
    """What became of a device in the pools that it was asked into or drifted in, newest first:
    `job`, `kind`, `at`, and `reason` where it was refused, set aside or drifted."""
    asked = select(Request.job_id).where(Request.device_id == device_id).distinct()
    kinds = (JOINED, REFUSED, ASIDE, DRIFTED)
    statement = (
        select(Event)
        .where(Event.job_id.in_(asked), Event.kind.in_(kinds))
        .order_by(Event.at.desc(), Event.number.desc())
    )
    told = [event for event in session.scalars(statement) if event.data["device"] == device_id]
    return [
        {
            "job": event.job_id,
            "kind": event.kind,
            "at": event.at.isoformat(),
            "reason": event.data.get("reason"),
        }
        for event in told[:limit]
    ]
