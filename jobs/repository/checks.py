"""Checks of devices: made, found, moved on by compare-and-set. One check of a device runs at a
time.

    pending ──begin──> running ──finish──> done
       └───────────────────┴──────fail───> failed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.checking import CheckSettings
from jobs.columns import database_time
from jobs.repository.paging import Page, newest_first
from jobs.repository.writing import changed
from jobs.runtimes import DENSE
from jobs.states import CheckState, InputState, RequestState
from jobs.tables import Check, Job, Measurement, Model, Request
from latency_probes.messages import Target

LIVE = (CheckState.PENDING, CheckState.RUNNING)


@dataclass(frozen=True)
class Known:
    """The dense skeleton of a model as it is stored, and how it was run."""

    model: str
    digest: str
    target: Target


def create(
    session: Session,
    device_id: str,
    *,
    workload: str,
    skeleton_digest: str,
    target: Target,
    settings: CheckSettings,
    now: datetime | None = None,
) -> Check:
    """A new check, pending."""
    check = Check(
        device_id=device_id,
        workload=workload,
        skeleton_digest=skeleton_digest,
        target=target.model_dump(mode="json"),
        target_key=target.key,
        settings=settings.model_dump(mode="json"),
        progress={"ended": 0, "of": len(settings.trials())},
        created_at=now or database_time(session),
    )
    session.add(check)
    session.flush()
    session.refresh(check)
    return check


def find(session: Session, check_id: str) -> Check | None:
    """The check as the database has it now."""
    return session.get(Check, check_id, populate_existing=True)


def page(
    session: Session, device_id: str, *, after: str | None = None, limit: int = 50
) -> Page[Check]:
    """The checks of a device, newest first; raises UnknownCursor."""
    where = [Check.device_id == device_id]
    return newest_first(session, Check, after=after, limit=limit, where=where)


def live(session: Session, device_id: str | None = None) -> Sequence[Check]:
    """The checks that have not ended, of one device or of all, oldest first."""
    statement = select(Check).where(Check.state.in_(LIVE))
    if device_id is not None:
        statement = statement.where(Check.device_id == device_id)
    return session.scalars(statement.order_by(Check.created_at, Check.id)).all()


def last_done(session: Session, device_id: str, target_key: str) -> Check | None:
    """The newest check of a device with this target that found something."""
    where = (
        Check.device_id == device_id,
        Check.target_key == target_key,
        Check.state == CheckState.DONE,
    )
    newest = (Check.created_at.desc(), Check.id.desc())
    return session.scalars(select(Check).where(*where).order_by(*newest).limit(1)).first()


def requests_of(session: Session, check_id: str) -> Sequence[Request]:
    """The requests of a check, oldest first."""
    statement = select(Request).where(Request.check_id == check_id)
    ordered = statement.order_by(Request.created_at, Request.id)
    return session.scalars(ordered.execution_options(populate_existing=True)).all()


def report(
    session: Session,
    check_id: str,
    state: CheckState,
    progress: Mapping[str, Any],
    waiting_for: str | None,
) -> bool:
    """Says how far a live check is and what it waits for."""
    values = {"state": state, "progress": dict(progress), "waiting_for": waiting_for}
    return _changed(session, check_id, values)


def finish(session: Session, check_id: str, result: Mapping[str, Any], now: datetime) -> bool:
    """Ends a live check with what it found. False: it has ended."""
    return _end(session, check_id, {"state": CheckState.DONE, "result": dict(result)}, now)


def fail(session: Session, check_id: str, error: str, now: datetime) -> bool:
    """Ends a live check, and its open requests, without a result. False: it has ended."""
    return _end(session, check_id, {"state": CheckState.FAILED, "error": error}, now)


def last_reference(session: Session, device_id: str) -> Known | None:
    """The reference that a device measured last for a job's search, and how; models with their
    true weights, which may be large, are left out."""
    statement = (
        select(Model.name, Request.reference_digest, Request.target)
        .join(Measurement, Measurement.request_id == Request.id)
        .join(Job, Job.id == Request.job_id)
        .join(Model, Model.id == Job.model_id)
        .where(
            Measurement.device_id == device_id,
            Measurement.counted,
            Measurement.ratio.is_not(None),
            Model.state != InputState.REMOVED,
            Request.purpose.not_like("final:%"),
        )
        .order_by(Measurement.created_at.desc(), Measurement.id.desc())
    )
    return _known(session, statement)


def dense_skeleton(session: Session, model_id: str) -> Known | None:
    """The dense skeleton of a model, as its last job had it measured; None before the first."""
    statement = (
        select(Model.name, Request.reference_digest, Request.target)
        .join(Job, Job.id == Request.job_id)
        .join(Model, Model.id == Job.model_id)
        .where(Job.model_id == model_id, Request.purpose == DENSE)
        .order_by(Request.created_at.desc(), Request.id.desc())
    )
    return _known(session, statement)


def _known(session: Session, statement: Any) -> Known | None:
    row = session.execute(statement.limit(1)).first()
    return None if row is None else Known(row[0], row[1], Target.model_validate(row[2]))


def _end(session: Session, check_id: str, values: dict[str, Any], now: datetime) -> bool:
    ended = values | {"waiting_for": None, "finished_at": now}
    if not _changed(session, check_id, ended):
        return False
    open_states = (RequestState.PENDING, RequestState.DISPATCHED)
    where = (Request.check_id == check_id, Request.state.in_(open_states))
    over = {"state": RequestState.FAILED, "lease_token": None, "lease_until": None}
    changed(session, update(Request).where(*where).values(over))
    return True


def _changed(session: Session, check_id: str, values: Mapping[str, Any]) -> bool:
    where = (Check.id == check_id, Check.state.in_(LIVE))
    return changed(session, update(Check).where(*where).values(dict(values)))
