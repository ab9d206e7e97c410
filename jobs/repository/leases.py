"""Leadership by time: one owner per name until a moment, taken and renewed by compare-and-set."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, update
from sqlalchemy.orm import Session

from jobs.repository.writing import changed, insert_new
from jobs.tables import Lease


def take(session: Session, name: str, owner: str, now: datetime, lease_s: float) -> bool:
    """Takes or renews a lease. False: another owner has it until later than `now`."""
    until = now + timedelta(seconds=lease_s)
    if insert_new(session, Lease, {"name": name, "owner": owner, "until": until}):
        return True
    where = (Lease.name == name, or_(Lease.owner == owner, Lease.until <= now))
    return changed(session, update(Lease).where(*where).values(owner=owner, until=until))


def release(session: Session, name: str, owner: str) -> None:
    """Gives a lease up, if `owner` has it."""
    session.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))


def holder(session: Session, name: str, now: datetime) -> str | None:
    """Who has the lease now."""
    lease = session.get(Lease, name, populate_existing=True)
    return lease.owner if lease is not None and lease.until > now else None
