"""API keys: made once in the clear, kept as a hash."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.ids import new_secret, sha256_hex
from jobs.repository.writing import changed
from jobs.tables import ApiKey


def create(
    session: Session,
    name: str,
    scopes: Sequence[str],
    *,
    expires_at: datetime | None = None,
    now: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which cannot be had again."""
    secret = new_secret()
    key = ApiKey(
        name=name,
        scopes=list(scopes),
        secret_sha256=sha256_hex(secret),
        expires_at=expires_at,
        created_at=now or database_time(session),
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, secret


def verify(session: Session, key_id: str, secret: str, now: datetime) -> ApiKey | None:
    """The key, if the secret is its own and it is neither expired nor revoked."""
    key = session.get(ApiKey, key_id, populate_existing=True)
    if key is None or not hmac.compare_digest(key.secret_sha256, sha256_hex(secret)):
        return None
    is_over = key.expires_at is not None and key.expires_at <= now
    return None if is_over or key.revoked_at is not None else key


def used(session: Session, key_id: str, now: datetime, *, unless_since: datetime) -> bool:
    """Notes the last use, unless one was noted after `unless_since`: not every request is a
    write."""
    is_old = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < unless_since)
    return changed(
        session, update(ApiKey).where(ApiKey.id == key_id, is_old).values(last_used_at=now)
    )


def revoke(session: Session, key_id: str, now: datetime) -> bool:
    """Ends a key. False: there is none, or it was revoked before."""
    where = (ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    return changed(session, update(ApiKey).where(*where).values(revoked_at=now))


def all_keys(session: Session) -> Sequence[ApiKey]:
    """Every key, revoked ones too, oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()
