"""The nodes of a job's tree. Each is written again when something of it changes, and says at which
version of the job that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, func, select
from sqlalchemy.orm import Session

from jobs.repository.writing import insert_or_replace
from jobs.tables import Candidate

_SHOWN = [
    column for column in Candidate.__table__.columns if column.name not in ("job_id", "plan")
]


def save(
    session: Session, job_id: str, nodes: Sequence[Mapping[str, Any]], version: int = 0
) -> None:
    """Inserts or overwrites nodes, as of this version of the job. All have the same keys:
    `digest`, `parent`, `level`, `origin`, `kept` and any other columns of the table."""
    rows = [
        {
            **node,
            "job_id": job_id,
            "version": version,
            "int8_layers": len((node.get("plan") or {}).get("int8", ())),
        }
        for node in nodes
    ]
    insert_or_replace(session, Candidate, rows)
    session.expire_all()


def clear(session: Session, job_id: str) -> None:
    """Removes all nodes of a job."""
    session.execute(delete(Candidate).where(Candidate.job_id == job_id))


def tree(session: Session, job_id: str) -> Sequence[Candidate]:
    """All nodes of a job, by level and digest."""
    statement = (
        select(Candidate)
        .where(Candidate.job_id == job_id)
        .order_by(Candidate.level, Candidate.digest)
    )
    return session.scalars(statement).all()


def changes(session: Session, job_id: str, after: int) -> Sequence[Row[Any]]:
    """The nodes of a job that were written after a version, by level and digest, without their
    plans."""
    statement = (
        select(*_SHOWN)
        .where(Candidate.job_id == job_id, Candidate.version > after)
        .order_by(Candidate.level, Candidate.digest)
    )
    return session.execute(statement).all()


def first_version(session: Session, job_id: str) -> int | None:
    """The version of the node that was written first; None without nodes. A tree that is written
    anew has no node from before."""
    statement = select(func.min(Candidate.version)).where(Candidate.job_id == job_id)
    return session.scalar(statement)


def skeletons(session: Session, job_id: str) -> dict[str, str]:
    """Plan -> skeleton of every node of a job, by digest."""
    columns = select(Candidate.digest, Candidate.skeleton_digest)
    rows = session.execute(columns.where(Candidate.job_id == job_id))
    return {digest: skeleton for digest, skeleton in rows if skeleton is not None}


def find(session: Session, job_id: str, digest: str) -> Candidate | None:
    """One node."""
    return session.get(Candidate, (job_id, digest), populate_existing=True)


def count(session: Session, job_id: str) -> int:
    """How many nodes a job has."""
    statement = select(func.count()).select_from(Candidate).where(Candidate.job_id == job_id)
    return session.scalar(statement) or 0
