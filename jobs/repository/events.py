"""The numbered log of a job. The number is counted in the job's own row, so two writers leave no
gap and readers see the numbers in the order in which they were committed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.tables import Event, Job

MAX_NUMBER = 2**31 - 1  # of its column on PostgreSQL


def append(
    session: Session,
    job_id: str,
    kind: str,
    data: dict[str, Any],
    *,
    now: datetime | None = None,
) -> int:
    """Adds an event and returns its number.

    Raises:
        LookupError: there is no such job.
    """
    statement = (
        update(Job)
        .where(Job.id == job_id)
        .values(event_count=Job.event_count + 1)
        .returning(Job.event_count)
    )
    number = session.execute(statement).scalar_one_or_none()
    if number is None:
        raise LookupError(f"job must exist, but got {job_id!r}")
    session.add(
        Event(job_id=job_id, number=number, at=now or database_time(session), kind=kind, data=data)
    )
    session.flush()
    return int(number)


def after(session: Session, job_id: str, number: int, limit: int = 100) -> Sequence[Event]:
    """The events that follow `number`, oldest first; 0 is before the first."""
    statement = (
        select(Event)
        .where(Event.job_id == job_id, Event.number > number)
        .order_by(Event.number)
        .limit(limit)
    )
    return session.scalars(statement).all()
