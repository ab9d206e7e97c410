"""What models and data sets have in common: found by id or name, and judged once by a worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from jobs.columns import utc_now
from jobs.repository.writing import Row, changed, insert_new
from jobs.states import InputState
from jobs.tables import Dataset, Model

T = TypeVar("T", Model, Dataset)


def create(session: Session, table: type[T], row: Row, now: datetime | None) -> T | None:
    """A new entry, to be checked. None: its name is taken."""
    moment = now or utc_now()
    is_new = insert_new(session, table, {**row, "created_at": moment, "updated_at": moment})
    return session.get(table, row["id"]) if is_new else None


def find(session: Session, table: type[T], id_or_name: str) -> T | None:
    """The entry with this id or, failing that, this name, as the database has it now."""
    statement = select(table).where(or_(table.id == id_or_name, table.name == id_or_name))
    rows = session.scalars(statement.execution_options(populate_existing=True)).all()
    return min(rows, key=lambda row: row.id != id_or_name, default=None)


def unchecked(session: Session, table: type[T]) -> Sequence[T]:
    """The entries whose check has not ended, oldest first: what the sweep sends again."""
    statement = select(table).where(table.state == InputState.CHECKING)
    return session.scalars(statement.order_by(table.created_at, table.id)).all()


def judge(
    session: Session, table: type[T], entry_id: str, now: datetime | None, **values: Any
) -> bool:
    """Leaves the state `checking`. False: the check of another worker came first."""
    where = (table.id == entry_id, table.state == InputState.CHECKING)
    return changed(
        session, update(table).where(*where).values(updated_at=now or utc_now(), **values)
    )
