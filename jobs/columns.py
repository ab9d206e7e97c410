"""Column types and the clocks. Times are UTC and aware on both databases; JSON keeps the order of
its keys. What a row holds and this version cannot read is handed on as it is: who needs it refuses
it, and who only lists rows goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, String, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

# `json`, not `jsonb`, on PostgreSQL: jsonb would sort the keys of an explorer's state.
Json = JSON(none_as_null=True)

UNREADABLE = "unreadable"


class Documents(TypeDecorator[dict[str, Any]]):
    """A JSON object. Anything else that a row holds is an object with the one key `unreadable`,
    which no model of this project accepts."""

    impl = Json
    cache_ok = True

    def process_result_value(self, value: Any | None, dialect: Dialect) -> dict[str, Any] | None:
        return value if value is None or isinstance(value, dict) else {UNREADABLE: value}


def utc_now() -> datetime:
    """The present time by this machine's clock, aware, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite, which knows no zones, stores it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time must be aware, but got the naive {value.isoformat()}")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _present(FunctionElement[datetime]):
    """The database's own clock, also within a transaction that began long ago."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(_present, "sqlite")
def _present_of_sqlite(element: _present, compiler: SQLCompiler, **options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


@compiles(_present, "postgresql")
def _present_of_postgresql(element: _present, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


def database_time(session: Session) -> datetime:
    """The present time as the database has it, aware, in UTC. Whatever several machines compare
    goes by this one clock: theirs may be wrong."""
    return session.scalars(select(_present())).one()


class States(TypeDecorator[StrEnum]):
    """One of `states`, as its text. A state that only another version knows stays a text."""

    impl = String(16)
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__()
        self.states = states

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any:
        return self.states(value) if value in set(self.states) else value
