"""Cursor paging: `after` is the id of the last row of the page before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from jobs.errors import UnknownCursor

T = TypeVar("T")
MAX_LIMIT = 500


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows, and the cursor of the next page; None where this is the last."""

    items: tuple[T, ...]
    next: str | None


def newest_first(
    session: Session,
    table: Any,
    *,
    after: str | None,
    limit: int,
    where: Sequence[ColumnElement[bool]] = (),
) -> Page[Any]:
    """A page of a table that has `id` and `created_at`.

    Raises:
        UnknownCursor: no row has the id `after`.
        ValueError: `limit` is not between 1 and 500.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit must be between 1 and {MAX_LIMIT}, but got {limit}")
    position = tuple_(table.created_at, table.id)
    statement = select(table).where(*where).order_by(table.created_at.desc(), table.id.desc())
    if after is not None:
        last = session.get(table, after)
        if last is None:
            raise UnknownCursor(f"after must be the id of an entry, but got {after!r}")
        statement = statement.where(position < (last.created_at, last.id))
    rows = session.scalars(statement.limit(limit + 1)).all()
    items = tuple(rows[:limit])
    return Page(items, items[-1].id if len(rows) > limit else None)
