"""What models and data sets have in common: found by id or name, and judged once by a worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from jobs.columns import database_time
from jobs.repository.writing import Row, changed, insert_new
from jobs.states import InputState
from jobs.tables import Dataset, Job, Model

T = TypeVar("T", Model, Dataset)
_NO_SYNC = {"synchronize_session": False}
_OWNERS: dict[type, InstrumentedAttribute[str]] = {Model: Job.model_id, Dataset: Job.dataset_id}


def create(session: Session, table: type[T], row: Row, now: datetime | None) -> T | None:
    """A new entry, to be checked. None: its name is taken."""
    moment = now or database_time(session)
    is_new = insert_new(session, table, {**row, "created_at": moment, "updated_at": moment})
    return session.get(table, row["id"]) if is_new else None


def names(session: Session, table: type[T]) -> Sequence[str]:
    """The names that are taken."""
    return session.scalars(select(table.name).where(table.state != InputState.REMOVED)).all()


def find(session: Session, table: type[T], id_or_name: str) -> T | None:
    """The entry with this id or, failing that, this name, as the database has it now."""
    named = or_(table.id == id_or_name, table.name == id_or_name)
    statement = select(table).where(named, table.state != InputState.REMOVED)
    rows = session.scalars(statement.execution_options(populate_existing=True)).all()
    return min(rows, key=lambda row: row.id != id_or_name, default=None)


def kept(session: Session, table: type[T], entry_id: str) -> T | None:
    """The entry with this id, one too that was removed and that jobs still name."""
    return session.get(table, entry_id, populate_existing=True)


def hold(session: Session, table: type[T], entry_id: str) -> bool:
    """Keeps an entry from being removed until the transaction ends. False: it is gone."""
    where = (table.id == entry_id, table.state != InputState.REMOVED)
    return session.scalar(select(table.id).where(*where).with_for_update(read=True)) is not None


def remove(session: Session, entry: Model | Dataset) -> None:
    """Frees the name of an entry. Its row stays, seen by nobody, while jobs name it."""
    named = select(Job.id).where(_OWNERS[type(entry)] == entry.id).limit(1)
    if session.scalar(named) is None:
        session.delete(entry)
    else:
        entry.name, entry.state = entry.id, InputState.REMOVED
    session.flush()


def drop_removed(session: Session) -> None:
    """Deletes the rows of removed models and data sets that no job names any more."""
    for table in (Model, Dataset):
        named = select(Job.id).where(_OWNERS[table] == table.id).exists()
        where = (table.state == InputState.REMOVED, ~named)
        session.execute(delete(table).where(*where), execution_options=_NO_SYNC)


def unchecked(session: Session, table: type[T], *, free_at: datetime | None = None) -> Sequence[T]:
    """The entries whose check has not ended, oldest first; with `free_at` those alone that no
    worker holds then: what the sweep sends again."""
    statement = select(table).where(table.state == InputState.CHECKING)
    if free_at is not None:
        statement = statement.where(_is_free(table, free_at))
    return session.scalars(statement.order_by(table.created_at, table.id)).all()


def claim(
    session: Session, table: type[T], entry_id: str, now: datetime, lease_s: float
) -> T | None:
    """Takes an entry to check that nobody holds; its attempt grows by one.

    Returns:
        The entry, or None: somebody else has it, or it has been judged.
    """
    where = (table.id == entry_id, table.state == InputState.CHECKING, _is_free(table, now))
    until = now + timedelta(seconds=lease_s)
    statement = update(table).where(*where).values(attempt=table.attempt + 1, lease_until=until)
    return find(session, table, entry_id) if changed(session, statement) else None


def renew(session: Session, table: type[T], entry: T, until: datetime | None) -> bool:
    """Extends the lease of the run that took `entry`, or with None gives it back. False: the run
    has lost it."""
    where = (
        table.id == entry.id,
        table.attempt == entry.attempt,
        table.state == InputState.CHECKING,
    )
    return changed(session, update(table).where(*where).values(lease_until=until))


def _is_free(table: type[T], now: datetime) -> ColumnElement[bool]:
    return or_(table.lease_until.is_(None), table.lease_until <= now)


def judge(
    session: Session,
    table: type[T],
    entry_id: str,
    now: datetime | None,
    attempt: int | None,
    **values: Any,
) -> bool:
    """Leaves the state `checking`. False: the check of another worker came first, or has taken
    this one's lease over (`attempt` is that of the run that judges)."""
    where = [table.id == entry_id, table.state == InputState.CHECKING]
    if attempt is not None:
        where.append(table.attempt == attempt)
    return changed(
        session,
        update(table)
        .where(*where)
        .values(updated_at=now or database_time(session), lease_until=None, **values),
    )
