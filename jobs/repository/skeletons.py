"""Which skeletons are in the artifact store, and which of them nothing needs any more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.repository.writing import insert_new
from jobs.states import LIVE, TaskState
from jobs.tables import Check, Job, Request, Skeleton, Task

# The tasks that store a skeleton, and name it in their result before any request does.
MAKERS = ("prepare", "package", "package_dense")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def add(
    session: Session, digest: str, size: int, location: str, *, now: datetime | None = None
) -> bool:
    """Notes a stored skeleton. False: it was known."""
    row = {
        "digest": digest,
        "size": size,
        "location": location,
        "created_at": now or database_time(session),
    }
    return insert_new(session, Skeleton, row)


def find(session: Session, digest: str) -> Skeleton | None:
    """The skeleton with this digest."""
    return session.get(Skeleton, digest)


def of_job(session: Session, job_id: str) -> set[str]:
    """The digests that the requests of a job name."""
    columns = (Request.skeleton_digest, Request.reference_digest)
    rows = session.execute(select(*columns).where(Request.job_id == job_id).distinct())
    return {digest for row in rows for digest in row}


def unnamed(session: Session, before: datetime) -> dict[str, int]:
    """The skeletons from before then that no request and no check names, and their sizes."""
    where = (Skeleton.created_at < before, ~_named())
    rows = session.execute(select(Skeleton.digest, Skeleton.size).where(*where))
    return {row.digest: row.size for row in rows}


def unknown(session: Session, digests: Iterable[str]) -> set[str]:
    """Those digests that have no row."""
    wanted = set(digests)
    known = session.scalars(select(Skeleton.digest).where(Skeleton.digest.in_(wanted)))
    return wanted - set(known)


def remove_unneeded(session: Session, digests: Iterable[str]) -> list[str]:
    """Deletes the rows of those skeletons that nothing needs, and holds them until the transaction
    ends: their files must go before that, so that whoever stores one anew waits, and then looks.

    While a task is at work that may store one, nothing goes.
    """
    if _is_one_made(session):
        return []
    wanted = sorted(set(digests) - _results(session))
    held = select(Skeleton.digest).where(Skeleton.digest.in_(wanted)).with_for_update()
    session.execute(held)
    where = (Skeleton.digest.in_(wanted), ~_named())
    gone = delete(Skeleton).where(*where).returning(Skeleton.digest)
    return sorted(session.scalars(gone, execution_options={"synchronize_session": False}))


def _named() -> ColumnElement[bool]:
    requests = or_(
        select(Request.id).where(Request.skeleton_digest == Skeleton.digest).exists(),
        select(Request.id).where(Request.reference_digest == Skeleton.digest).exists(),
    )
    return or_(requests, select(Check.id).where(Check.skeleton_digest == Skeleton.digest).exists())


def _is_one_made(session: Session) -> bool:
    where = (Task.kind.in_(MAKERS), Task.state == TaskState.RUNNING)
    return session.scalar(select(Task.id).where(*where).limit(1)) is not None


def _results(session: Session) -> set[str]:
    """The digests that results of live jobs name."""
    results = (
        select(Task.result)
        .join(Job, Job.id == Task.job_id)
        .where(Job.state.in_(LIVE), Task.kind.in_(MAKERS), Task.result.is_not(None))
    )
    texts = (json.dumps(result) for result in session.scalars(results))
    return {digest for text in texts for digest in _DIGEST.findall(text)}
