"""Answers kept under the `Idempotency-Key` of a request, so that a repeated POST is answered, not
done again.

Within one transaction: `reserve`, do the work, `store`. A rollback forgets all of it. After `LIFE`
a key is as good as new.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.errors import IdempotencyMismatch
from jobs.repository.writing import changed, insert_new
from jobs.tables import Idempotency

# Clients that repeat a request do so within minutes.
LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class Replay:
    """The answer that the first request got."""

    status: int
    response: dict[str, Any]


def reserve(
    session: Session, scope: str, key: str, request_sha256: str, *, now: datetime | None = None
) -> Replay | None:
    """Claims a key for the request with this hash.

    Returns:
        None: the caller is the first within `LIFE`, or the first got no answer, and must do the
        work. Else the answer to give again.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    moment = now or database_time(session)
    row = {
        "scope": scope,
        "key": key,
        "request_sha256": request_sha256,
        "created_at": moment,
    }
    its_own = (Idempotency.scope == scope, Idempotency.key == key)
    session.execute(delete(Idempotency).where(*its_own, Idempotency.created_at <= moment - LIFE))
    if insert_new(session, Idempotency, row):
        return None
    known = session.get_one(Idempotency, (scope, key), populate_existing=True)
    if known.request_sha256 != request_sha256:
        raise IdempotencyMismatch(
            f"Idempotency-Key must be new for another request, but got {key!r} again"
        )
    if known.status is None:
        return None
    return Replay(known.status, known.response or {})


def store(session: Session, scope: str, key: str, status: int, response: dict[str, Any]) -> None:
    """Keeps the answer to a reserved key."""
    where = (Idempotency.scope == scope, Idempotency.key == key)
    changed(session, update(Idempotency).where(*where).values(status=status, response=response))


def forget(session: Session, before: datetime) -> None:
    """Drops the answers that are older than `before`."""
    session.execute(delete(Idempotency).where(Idempotency.created_at < before))
