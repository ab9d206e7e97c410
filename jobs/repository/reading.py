"""Reads that the other files share: what tells whether rows changed, and rows by their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, String, select, type_coerce
from sqlalchemy.orm import Session

_AT_ONCE = 500  # databases limit the parameters of a statement


def stamps(
    session: Session, where: Sequence[Any], row_id: Any, *columns: Any
) -> dict[str, tuple[Any, ...]]:
    """The values of these columns by id, in no order, read without making objects of them."""
    rows = session.connection().execute(select(row_id, *columns).where(*where))
    return {row[0]: tuple(row) for row in rows}


def as_text(column: Any) -> ColumnElement[str]:
    """A state as the text that it is in the database."""
    return type_coerce(column, String)


def in_parts(
    session: Session, statement: Select[Any], row_id: Any, ids: Sequence[str]
) -> Iterator[Any]:
    """The rows of a statement that have these ids, as the database has them now."""
    fresh = statement.execution_options(populate_existing=True)
    for start in range(0, len(ids), _AT_ONCE):
        yield from session.scalars(fresh.where(row_id.in_(ids[start : start + _AT_ONCE])))
