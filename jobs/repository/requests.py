"""Requests for measurements: assigned to one device under a lease, completed by the holder of
that lease alone.

    pending ──assign──> dispatched ──complete──> done | failed
       ^                    │               │
       ├─────release────────┘               │   (the lease is over, or the device is gone)
       └─────reopen─────────────────────────┘   (the answer is worth another try)
    and `reopen` from failed to pending, where another try may help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.ids import new_id, new_secret
from jobs.repository import measurements, pools, reading
from jobs.repository.measurements import Finding
from jobs.repository.reading import as_text
from jobs.repository.writing import changed, insert_new
from jobs.runtimes import DENSE, dense_purpose
from jobs.states import RequestState
from jobs.tables import Measurement, Request
from latency_probes.messages import Settings, Target


def add(
    session: Session,
    job_id: str | None,
    purpose: str,
    *,
    check_id: str | None = None,
    skeleton_digest: str,
    reference_digest: str,
    selector: str,
    target: Target,
    settings: Settings,
    now: datetime | None = None,
) -> Request:
    """The request of the job, or of the check, with this purpose; made, pending, if there is none
    yet."""
    row = {
        "id": new_id("req"),
        "job_id": job_id,
        "check_id": check_id,
        "purpose": purpose,
        "skeleton_digest": skeleton_digest,
        "reference_digest": reference_digest,
        "selector": selector,
        "target": target.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "created_at": now or database_time(session),
    }
    insert_new(session, Request, row)
    owner = Request.job_id == job_id if check_id is None else Request.check_id == check_id
    where = (owner, Request.purpose == purpose)
    return session.scalars(select(Request).where(*where)).one()


def find(session: Session, request_id: str) -> Request | None:
    """The request as the database has it now."""
    return session.get(Request, request_id, populate_existing=True)


def of_purpose(session: Session, job_id: str, purpose: str) -> Request | None:
    """The job's request with this purpose."""
    where = (Request.job_id == job_id, Request.purpose == purpose)
    return session.scalars(select(Request).where(*where)).first()


def dense(session: Session, job_id: str, runtime: str) -> Request | None:
    """The job's request for the dense model in a runtime."""
    found = (of_purpose(session, job_id, each) for each in (DENSE, dense_purpose(runtime)))
    return next((each for each in found if each and each.target["runtime"] == runtime), None)


def pending(session: Session) -> Sequence[Request]:
    """Requests that no device has, oldest first."""
    statement = (
        select(Request)
        .where(Request.state == RequestState.PENDING)
        .order_by(Request.created_at, Request.id)
    )
    return session.scalars(statement).all()


def for_job(session: Session, job_id: str) -> Sequence[Request]:
    """The requests of a job, oldest first."""
    statement = select(Request).where(Request.job_id == job_id)
    ordered = statement.order_by(Request.created_at, Request.id)
    return session.scalars(ordered.execution_options(populate_existing=True)).all()


def stamps(session: Session, job_id: str) -> dict[str, tuple[Any, ...]]:
    """By id, what changes whenever a request of the job does, but for the end of its lease."""
    columns = (as_text(Request.state), Request.attempt, Request.measurement_id)
    return reading.stamps(session, [Request.job_id == job_id], Request.id, *columns)


def of_ids(session: Session, ids: Sequence[str]) -> Iterator[Request]:
    """The requests with these ids."""
    return reading.in_parts(session, select(Request), Request.id, ids)


def open_count(session: Session, job_id: str) -> int:
    """How many requests of a job have not ended; those by which devices join it are left out."""
    open_states = (RequestState.PENDING, RequestState.DISPATCHED)
    where = (
        Request.job_id == job_id,
        Request.state.in_(open_states),
        Request.purpose.not_like(f"{pools.JOIN}%"),
    )
    return session.scalar(select(func.count()).select_from(Request).where(*where)) or 0


def any_open(session: Session) -> bool:
    """Whether anything is to be measured for a job or a check."""
    open_states = (RequestState.PENDING, RequestState.DISPATCHED)
    found = select(Request.id).where(Request.state.in_(open_states)).limit(1)
    return session.scalar(found) is not None


def dispatched(session: Session, device_id: str) -> Sequence[Request]:
    """What a device has been given and not yet answered, oldest first."""
    where = (Request.device_id == device_id, Request.state == RequestState.DISPATCHED)
    statement = select(Request).where(*where).order_by(Request.created_at, Request.id)
    return session.scalars(statement).all()


def entries(session: Session) -> dict[str, set[str]]:
    """Device -> the stream entries of what it has been given and not yet answered."""
    where = (Request.state == RequestState.DISPATCHED, Request.stream_id.is_not(None))
    found: dict[str, set[str]] = {}
    for device_id, entry in session.execute(
        select(Request.device_id, Request.stream_id).where(*where)
    ):
        found.setdefault(str(device_id), set()).add(str(entry))
    return found


def loads(session: Session) -> dict[str, int]:
    """How many unanswered requests each device has; devices without any are left out."""
    statement = (
        select(Request.device_id, func.count())
        .where(Request.state == RequestState.DISPATCHED, Request.device_id.is_not(None))
        .group_by(Request.device_id)
    )
    return {str(device): count for device, count in session.execute(statement)}


def assign(
    session: Session, request_id: str, device_id: str, now: datetime, lease_s: float
) -> Request | None:
    """Gives a pending request to a device, with a new attempt and a new lease token. None: it is
    not pending."""
    values = {
        "state": RequestState.DISPATCHED,
        "device_id": device_id,
        "attempt": Request.attempt + 1,
        "lease_token": new_secret(),
        "lease_until": now + timedelta(seconds=lease_s),
        "stream_id": None,
    }
    where = (Request.id == request_id, Request.state == RequestState.PENDING)
    return find(session, request_id) if _changed(session, where, values) else None


def sent(session: Session, request_id: str, attempt: int, stream_id: str) -> bool:
    """Notes the stream entry that carries this attempt."""
    return _changed(session, _held(request_id, attempt), {"stream_id": stream_id})


def unsent(session: Session) -> Sequence[Request]:
    """Assigned requests of which no stream entry is known: the sender may have died in
    between."""
    where = (Request.state == RequestState.DISPATCHED, Request.stream_id.is_(None))
    return session.scalars(select(Request).where(*where).order_by(Request.id)).all()


def renew(session: Session, request_id: str, attempt: int, now: datetime, lease_s: float) -> bool:
    """Extends the lease of an attempt that still holds it."""
    until = now + timedelta(seconds=lease_s)
    return _changed(session, _held(request_id, attempt), {"lease_until": until})


def release(session: Session, request_id: str, attempt: int) -> bool:
    """Takes a request back from its device: pending again. False: that attempt does not hold
    it."""
    values = {"state": RequestState.PENDING, "lease_token": None, "lease_until": None}
    return _changed(session, _held(request_id, attempt), values)


def reopen(session: Session, request_id: str) -> bool:
    """Asks again for what has been answered: pending, to be assigned anew; the answer is kept and
    counts no more. False: it has not been answered.
    """
    answered = (RequestState.FAILED, RequestState.DONE)
    where = (Request.id == request_id, Request.state.in_(answered))
    answers = (Measurement.request_id == request_id, Measurement.counted)
    session.execute(update(Measurement).where(*answers).values(counted=False))
    values = {"state": RequestState.PENDING, "lease_token": None, "measurement_id": None}
    return _changed(session, where, values)


def abandon(session: Session, job_id: str) -> bool:
    """Ends the open requests of a job that needs them no more. False: it had none."""
    where = (
        Request.job_id == job_id,
        Request.state.in_((RequestState.PENDING, RequestState.DISPATCHED)),
    )
    values = {"state": RequestState.FAILED, "lease_token": None, "lease_until": None}
    return _changed(session, where, values)


def give_up(session: Session, request_id: str) -> bool:
    """Ends an open request without an answer. False: it has ended."""
    is_open = Request.state.in_((RequestState.PENDING, RequestState.DISPATCHED))
    values = {"state": RequestState.FAILED, "lease_token": None, "lease_until": None}
    return _changed(session, (Request.id == request_id, is_open), values)


def expired(session: Session, now: datetime) -> Sequence[Request]:
    """Dispatched requests whose lease is over."""
    where = (Request.state == RequestState.DISPATCHED, Request.lease_until <= now)
    return session.scalars(select(Request).where(*where).order_by(Request.id)).all()


def may_answer(
    session: Session, request: Request, *, attempt: int, lease_token: str, device_id: str
) -> bool:
    """Whether an answer is worth keeping: it came under the present lease, or it is the first one
    to an attempt whose lease was lost. Of those leases only the number is known, so a request
    keeps one answer an attempt at most, whoever sends more."""
    if attempt == request.attempt and request.lease_token is not None:
        return (lease_token, device_id) == (request.lease_token, request.device_id)
    answers = (Measurement.request_id == request.id, Measurement.attempt == attempt)
    was_given = 1 <= attempt <= request.attempt
    return was_given and session.scalar(select(Measurement.id).where(*answers).limit(1)) is None


def complete(
    session: Session,
    request_id: str,
    *,
    attempt: int,
    lease_token: str,
    device_id: str,
    finding: Finding,
    now: datetime | None = None,
) -> bool:
    """Stores what a device found, and ends the request if the device still holds its lease.

    A late result of a lost lease is stored too, and not counted. The same result delivered again
    is stored once and answered as the first time.

    Returns:
        Whether the result counts.

    Raises:
        LookupError: there is no such request.
    """
    request = find(session, request_id)
    if request is None:
        raise LookupError(f"request must exist, but got {request_id!r}")
    known = measurements.of_lease(session, request_id, device_id, lease_token)
    if known is not None:
        return known.counted
    measurement_id = new_id("mea")
    values = {
        "state": RequestState.FAILED if finding.error_kind else RequestState.DONE,
        "measurement_id": measurement_id,
        "lease_until": None,
    }
    held = (
        *_held(request_id, attempt),
        Request.lease_token == lease_token,
        Request.device_id == device_id,
    )
    counted = _changed(session, held, values)
    row = Measurement(
        id=measurement_id,
        request_id=request_id,
        job_id=request.job_id,
        check_id=request.check_id,
        device_id=device_id,
        attempt=attempt,
        lease_token=lease_token,
        skeleton_digest=request.skeleton_digest,
        reference_digest=request.reference_digest,
        target_key=_target_key(request),
        kind=str(request.settings.get("kind", "unknown")),
        counted=counted,
        created_at=now or database_time(session),
        **finding.columns(),
    )
    session.add(row)
    session.flush()
    return counted


def _target_key(request: Request) -> str:
    """Under which its measurements are found again. A target that cannot be read has none."""
    try:
        return Target.model_validate(request.target).key
    except ValidationError:
        return "unknown"


def _held(request_id: str, attempt: int) -> tuple[Any, ...]:
    return (
        Request.id == request_id,
        Request.state == RequestState.DISPATCHED,
        Request.attempt == attempt,
    )


def _changed(session: Session, where: Sequence[Any], values: Mapping[str, Any]) -> bool:
    return changed(session, update(Request).where(*where).values(**values))
