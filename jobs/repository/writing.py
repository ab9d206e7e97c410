"""Writes that the other files share: compare-and-set, insert what is new, insert or replace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Table, Update, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.tables import Base

Row = dict[str, Any]
_AT_ONCE = 500  # rows of one statement: databases limit its parameters


def changed(session: Session, statement: Update) -> bool:
    """Runs a compare-and-set, and keeps the session's objects in step. Returns whether it changed
    a row."""
    returning = statement.returning(*statement.table.primary_key)
    rows = session.execute(returning, execution_options={"synchronize_session": "fetch"})
    return len(rows.all()) > 0


def insert_new(session: Session, table: type[Base], row: Row) -> bool:
    """Inserts one row unless it collides with a unique key. Returns whether it was inserted."""
    target = _table(table)
    statement = _insert(session, target).values(row).on_conflict_do_nothing()
    return session.execute(statement.returning(*target.primary_key)).first() is not None


def insert_all_new(
    session: Session, table: type[Base], rows: Sequence[Row], column: str
) -> set[Any]:
    """Inserts those rows of equal shape that collide with no unique key. Returns the values of a
    column in what was inserted."""
    target, inserted = _table(table), set()
    for start in range(0, len(rows), _AT_ONCE):
        part = list(rows[start : start + _AT_ONCE])
        statement = _insert(session, target).values(part).on_conflict_do_nothing()
        inserted |= set(session.scalars(statement.returning(target.c[column])))
    return inserted


def insert_or_replace(session: Session, table: type[Base], rows: Sequence[Row]) -> None:
    """Inserts rows of equal shape; where the primary key exists, overwrites the columns that they
    name."""
    if not rows:
        return
    target = _table(table)
    keys = [column.name for column in target.primary_key]
    statement = _insert(session, target)
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    session.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=replaced), list(rows)
    )


def _table(table: type[Base]) -> Table:
    return cast(Table, inspect(table).local_table)


def _insert(session: Session, table: Table) -> Any:
    dialect = session.get_bind().dialect.name
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)
