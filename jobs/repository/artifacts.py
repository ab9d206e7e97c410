"""The files that a job made. Their bytes are in the artifact store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.artifacts import Stored
from jobs.columns import database_time
from jobs.repository.writing import insert_or_replace
from jobs.tables import Artifact


def record(
    session: Session, job_id: str, name: str, stored: Stored, *, now: datetime | None = None
) -> None:
    """Notes a stored file under the name that users see; a second one of that name replaces the
    first."""
    row = {
        "job_id": job_id,
        "name": name,
        "size": stored.size,
        "sha256": stored.sha256,
        "location": stored.location,
        "created_at": now or database_time(session),
    }
    insert_or_replace(session, Artifact, [row])
    session.expire_all()


def for_job(session: Session, job_id: str) -> Sequence[Artifact]:
    """The files of a job, by name."""
    statement = select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)
    return session.scalars(statement).all()


def find(session: Session, job_id: str, name: str) -> Artifact | None:
    """One file."""
    return session.get(Artifact, (job_id, name), populate_existing=True)
