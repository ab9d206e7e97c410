"""Which skeletons are in the artifact store."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from jobs.columns import utc_now
from jobs.repository.writing import insert_new
from jobs.tables import Skeleton


def add(
    session: Session, digest: str, size: int, location: str, *, now: datetime | None = None
) -> bool:
    """Notes a stored skeleton. False: it was known."""
    row = {"digest": digest, "size": size, "location": location, "created_at": now or utc_now()}
    return insert_new(session, Skeleton, row)


def find(session: Session, digest: str) -> Skeleton | None:
    """The skeleton with this digest."""
    return session.get(Skeleton, digest)
