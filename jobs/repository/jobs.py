"""Jobs: made, found, listed, and their search state saved. Their state is changed by
`jobs.status` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.repository import events
from jobs.repository.paging import Page, newest_first
from jobs.repository.writing import changed
from jobs.spec import JobSpec
from jobs.states import LIVE, JobState
from jobs.tables import Job

# Of a job that waits for nothing, and that no passing error holds up.
AT_EASE: Mapping[str, Any] = {"waiting_for": None, "tries": 0, "try_at": None, "trouble": None}


def create(
    session: Session,
    spec: JobSpec,
    *,
    model_id: str,
    dataset_id: str,
    now: datetime | None = None,
) -> Job:
    """A new job, queued, with its first event."""
    moment = now or database_time(session)
    job = Job(
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        model_id=model_id,
        dataset_id=dataset_id,
        created_at=moment,
        updated_at=moment,
    )
    session.add(job)
    session.flush()
    events.append(session, job.id, "state", {"from": None, "to": job.state}, now=moment)
    session.refresh(job)
    return job


def find(session: Session, job_id: str) -> Job | None:
    """The job as the database has it now."""
    return session.get(Job, job_id, populate_existing=True)


def find_named(session: Session, id_or_name: str) -> Job | None:
    """The job with this id or, failing that, the newest with this name."""
    found = find(session, id_or_name)
    if found is not None:
        return found
    newest = (Job.created_at.desc(), Job.id.desc())
    statement = select(Job).where(Job.name == id_or_name).order_by(*newest).limit(1)
    return session.scalars(statement.execution_options(populate_existing=True)).first()


def names(session: Session) -> Sequence[str]:
    """The names of all jobs that have one, each once."""
    statement = select(Job.name).where(Job.name.is_not(None)).distinct()
    return [name for name in session.scalars(statement) if name]


def lock(session: Session, job_id: str) -> Job | None:
    """The job, which nobody else changes until the transaction ends. Who changes a job's tasks or
    requests too takes this first: in any other order two transactions could wait for each other.
    """
    return session.get(Job, job_id, populate_existing=True, with_for_update=True)


def is_in(session: Session, job_id: str, state: JobState) -> bool:
    """Whether the job is in this state and stays in it until the transaction ends."""
    statement = select(Job.id).where(Job.id == job_id, Job.state == state).with_for_update()
    return session.scalar(statement) is not None


def page(
    session: Session, *, after: str | None = None, limit: int = 50, state: JobState | None = None
) -> Page[Job]:
    """Jobs, newest first. `after` is the last id of the page before; raises UnknownCursor."""
    where = [] if state is None else [Job.state == state]
    return newest_first(session, Job, after=after, limit=limit, where=where)


def live(session: Session) -> Sequence[Job]:
    """The jobs that have not ended, oldest first."""
    statement = select(Job).where(Job.state.in_(LIVE)).order_by(Job.created_at, Job.id)
    return session.scalars(statement).all()


def counts(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state; states without jobs are counted as 0."""
    rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
    return dict.fromkeys(JobState, 0) | dict(rows.all())


def save_search(
    session: Session,
    job_id: str,
    version: int,
    search_state: Mapping[str, Any] | None,
    progress: Mapping[str, Any],
    *,
    now: datetime | None = None,
) -> bool:
    """Replaces the explorer's state, unless that is None, and the progress, if nobody did since
    `version` was read; the version grows by one."""
    values: dict[str, Any] = {
        "version": version + 1,
        "progress": dict(progress),
        "updated_at": now or database_time(session),
    }
    if search_state is not None:
        values["search_state"] = dict(search_state)
    where = (Job.id == job_id, Job.version == version, Job.state.in_(LIVE))
    return changed(session, update(Job).where(*where).values(values))


def save_progress(
    session: Session,
    job_id: str,
    progress: Mapping[str, Any],
    *,
    version: int | None = None,
    now: datetime | None = None,
) -> bool:
    """Replaces what pollers see of a live job's progress; with a version, only if that is still
    the job's."""
    values = {"progress": dict(progress), "updated_at": now or database_time(session)}
    where = [Job.id == job_id, Job.state.in_(LIVE)]
    if version is not None:
        where.append(Job.version == version)
    return changed(session, update(Job).where(*where).values(values))


def set_waiting(
    session: Session, job_id: str, waiting_for: str | None, *, now: datetime | None = None
) -> bool:
    """Says what a live job waits for, or that it waits no more. Appends an event where that is
    news."""
    moment = now or database_time(session)
    where = (
        Job.id == job_id,
        Job.state.in_(LIVE),
        Job.waiting_for.is_distinct_from(waiting_for),
    )
    values = {"waiting_for": waiting_for, "updated_at": moment}
    if not changed(session, update(Job).where(*where).values(values)):
        return False
    events.append(session, job_id, "waiting", {"for": waiting_for}, now=moment)
    return True


def postpone(session: Session, job: Job, trouble: str, *, in_s: float, now: datetime) -> bool:
    """Notes that a passing error stopped the decision on a job, and when the next one is made.
    Appends an event. False: another worker was first."""
    where = (Job.id == job.id, Job.state == job.state, Job.tries == job.tries)
    values = {"tries": job.tries + 1, "try_at": now + timedelta(seconds=in_s)}
    if not changed(session, update(Job).where(*where).values(values)):
        return False
    set_trouble(session, job.id, trouble, now=now)
    return True


def set_trouble(session: Session, job_id: str, trouble: str, *, now: datetime) -> bool:
    """Tells of a passing error that holds up a live job or one of its tasks. Appends an event."""
    values = {"trouble": trouble, "waiting_for": trouble, "updated_at": now}
    where = (Job.id == job_id, Job.state.in_(LIVE))
    if not changed(session, update(Job).where(*where).values(values)):
        return False
    events.append(session, job_id, "retry", {"text": trouble}, now=now)
    return True


def clear_trouble(session: Session, job_id: str, *, now: datetime) -> bool:
    """Notes that the passing error is over. False: there was none."""
    where = (Job.id == job_id, Job.state.in_(LIVE), Job.trouble.is_not(None))
    waiting_for = case((Job.waiting_for == Job.trouble, None), else_=Job.waiting_for)
    values = {**AT_EASE, "waiting_for": waiting_for, "updated_at": now}
    return changed(session, update(Job).where(*where).values(values))
