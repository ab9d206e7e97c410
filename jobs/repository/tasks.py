"""Tasks: bounded pieces of work, claimed under a lease by compare-and-set, so that a message
delivered twice or a worker that died does no harm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session, defer

from jobs.columns import database_time
from jobs.ids import new_id
from jobs.repository import reading
from jobs.repository.reading import as_text
from jobs.repository.writing import changed, insert_all_new
from jobs.states import TaskState
from jobs.tables import Task


def add(
    session: Session,
    job_id: str,
    kind: str,
    key: str,
    payload: dict[str, Any],
    *,
    now: datetime | None = None,
) -> Task:
    """The job's task with this key; made if there is none yet."""
    add_all(session, job_id, [(kind, key, payload)], now=now)
    return session.scalars(select(Task).where(Task.job_id == job_id, Task.key == key)).one()


def add_all(
    session: Session,
    job_id: str,
    works: Sequence[tuple[str, str, dict[str, Any]]],
    *,
    now: datetime | None = None,
) -> list[str]:
    """Adds the tasks of a job, each a kind, a key and a payload, as far as there is none with that
    key. Returns the ids of those that are new, in their order."""
    moment = now or database_time(session)
    rows: list[dict[str, Any]] = [
        {
            "id": new_id("tsk"),
            "job_id": job_id,
            "kind": kind,
            "key": key,
            "payload": payload,
            "queued_at": moment,
        }
        for kind, key, payload in works
    ]
    new = insert_all_new(session, Task, rows, "id")
    return [row["id"] for row in rows if row["id"] in new]


def copy_losses(session: Session, source_id: str, job_id: str) -> int:
    """Gives a job the losses that another one of the same model, data and settings found, but for
    those of layers in int8, whose format may differ, and of weights that were trained. Returns how
    many."""
    where = (
        Task.job_id == source_id,
        Task.kind.in_(("sensitivity", "score")),
        Task.state == TaskState.DONE,
    )
    moment = database_time(session)
    rows: list[dict[str, Any]] = [
        {
            "id": new_id("tsk"),
            "job_id": job_id,
            "kind": task.kind,
            "key": task.key,
            "payload": task.payload,
            "queued_at": moment,
            "state": TaskState.DONE,
            "result": task.result,
        }
        for task in session.scalars(select(Task).where(*where))
        if task.payload.keys().isdisjoint(("format", "start"))
    ]
    return len(insert_all_new(session, Task, rows, "id"))


def find(session: Session, task_id: str) -> Task | None:
    """The task as the database has it now."""
    return session.get(Task, task_id, populate_existing=True)


def for_job(session: Session, job_id: str, *, kind: str | None = None) -> Sequence[Task]:
    """The tasks of a job, by key."""
    statement = select(Task).where(Task.job_id == job_id).order_by(Task.key)
    if kind is not None:
        statement = statement.where(Task.kind == kind)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def stamps(session: Session, job_id: str) -> dict[str, tuple[Any, ...]]:
    """By id, what changes whenever a task of the job does, but for the end of its lease."""
    columns = (as_text(Task.state), Task.attempt, Task.tries)
    return reading.stamps(session, [Task.job_id == job_id], Task.id, *columns)


def of_ids(session: Session, ids: Sequence[str]) -> Iterator[Task]:
    """The tasks with these ids; those that score a plan without their payload, which is long."""
    brief = select(Task).where(Task.kind == "score").options(defer(Task.payload))
    yield from reading.in_parts(session, brief, Task.id, ids)
    whole = select(Task).where(Task.kind != "score")
    yield from reading.in_parts(session, whole, Task.id, ids)


def open_count(session: Session, job_id: str) -> int:
    """How many tasks of a job have not ended."""
    where = (Task.job_id == job_id, Task.state.in_((TaskState.PENDING, TaskState.RUNNING)))
    return session.scalar(select(func.count()).select_from(Task).where(*where)) or 0


def running_count(session: Session) -> int:
    """How many tasks of all jobs run now."""
    where = Task.state == TaskState.RUNNING
    return session.scalar(select(func.count()).select_from(Task).where(where)) or 0


def claim(session: Session, task_id: str, now: datetime, lease_s: float) -> Task | None:
    """Takes a task that is pending and due, or whose runner's lease is over; its attempt grows by
    one.

    Returns:
        The task, or None: somebody else has it, it has ended, or it is not to be tried yet.
    """
    free = or_(
        and_(Task.state == TaskState.PENDING, or_(Task.try_at.is_(None), Task.try_at <= now)),
        and_(Task.state == TaskState.RUNNING, Task.lease_until <= now),
    )
    values = {
        "state": TaskState.RUNNING,
        "attempt": Task.attempt + 1,
        "lease_until": now + timedelta(seconds=lease_s),
        "try_at": None,
    }
    statement = update(Task).where(Task.id == task_id, free).values(values)
    return find(session, task_id) if changed(session, statement) else None


def renew(session: Session, task_id: str, attempt: int, now: datetime, lease_s: float) -> bool:
    """Extends the lease of the run that holds the task. False: the run has lost it and must
    stop."""
    until = now + timedelta(seconds=lease_s)
    return _end_or_keep(session, task_id, attempt, lease_until=until)


def checkpoint(
    session: Session, task_id: str, attempt: int, payload: dict[str, Any], *, now: datetime
) -> bool:
    """Gives the task back as pending with a new payload: the next slice of the same work."""
    return _end_or_keep(
        session,
        task_id,
        attempt,
        state=TaskState.PENDING,
        payload=payload,
        lease_until=None,
        queued_at=now,
        tries=0,
    )


def postpone(
    session: Session,
    task: Task,
    payload: dict[str, Any],
    error: str,
    try_at: datetime,
) -> bool:
    """Gives a task that a passing error stopped back as pending, for a later try. False: the run
    has lost its lease."""
    return _end_or_keep(
        session,
        task.id,
        task.attempt,
        state=TaskState.PENDING,
        payload=payload,
        error=error,
        lease_until=None,
        tries=task.tries + 1,
        try_at=try_at,
    )


def finish(session: Session, task_id: str, attempt: int, result: dict[str, Any]) -> bool:
    """running -> done. False: this run lost its lease, and its result is not wanted."""
    return _end_or_keep(
        session,
        task_id,
        attempt,
        state=TaskState.DONE,
        result=result,
        error=None,
        lease_until=None,
    )


def fail(session: Session, task_id: str, attempt: int, error: str) -> bool:
    """running -> failed, for good. False: this run lost its lease."""
    return _end_or_keep(
        session, task_id, attempt, state=TaskState.FAILED, error=error, lease_until=None
    )


def abandon(session: Session, job_id: str) -> bool:
    """Ends the open tasks of a job that has ended; who runs one loses its lease. False: it had
    none."""
    where = (Task.job_id == job_id, Task.state.in_((TaskState.PENDING, TaskState.RUNNING)))
    values = {"state": TaskState.FAILED, "error": "the job has ended", "lease_until": None}
    return changed(session, update(Task).where(*where).values(values))


def expired(session: Session, now: datetime) -> Sequence[Task]:
    """Running tasks whose lease is over: to be sent again."""
    where = (Task.state == TaskState.RUNNING, Task.lease_until <= now)
    return session.scalars(select(Task).where(*where).order_by(Task.id)).all()


def stale(session: Session, queued_before: datetime) -> Sequence[Task]:
    """Tasks that were queued before this time and that nobody has taken: their message may be
    lost. Those that wait for another try are left out."""
    where = (
        Task.state == TaskState.PENDING,
        Task.queued_at <= queued_before,
        Task.try_at.is_(None),
    )
    return session.scalars(select(Task).where(*where).order_by(Task.id)).all()


def due(session: Session, now: datetime) -> Sequence[Task]:
    """Tasks that a passing error stopped, and that are to be tried again now."""
    where = (Task.state == TaskState.PENDING, Task.try_at <= now)
    return session.scalars(select(Task).where(*where).order_by(Task.id)).all()


def requeued(session: Session, task_id: str, now: datetime) -> bool:
    """Notes that the message of a task was sent again, so that the next sweep leaves it alone."""
    statement = update(Task).where(Task.id == task_id).values(queued_at=now)
    return changed(session, statement)


def _end_or_keep(session: Session, task_id: str, attempt: int, **values: Any) -> bool:
    where = (Task.id == task_id, Task.state == TaskState.RUNNING, Task.attempt == attempt)
    return changed(session, update(Task).where(*where).values(**values))
