"""Engines and sessions, for SQLite and PostgreSQL alike. It knows no table.

Writing sessions on SQLite start with `BEGIN IMMEDIATE`: they wait for their turn (30 s at most)
before they read anything, so a commit is never refused because another process wrote meanwhile.
Reading sessions take no lock, cannot write, and have connections of their own: writers that wait
for their turn never take the last one. With WAL and `synchronous=NORMAL` a killed process loses no
commit.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from jobs.settings import Settings

BUSY_TIMEOUT_S = 30.0
PATIENCE = "secateur_patience_s"
SQLITE_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
POSTGRESQL_LOCKED = ("55P03", "40P01")  # lock_not_available, deadlock_detected


def sessions(settings: Settings) -> sessionmaker[Session]:
    """Writing sessions on the database of `settings`: `with sessions(settings).begin() as
    session`."""
    return writing(make_engine(settings.database_url))


def writing(engine: Engine) -> sessionmaker[Session]:
    """Sessions that may write. Objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def reading(
    factory: sessionmaker[Session], *, patience_s: float | None = None
) -> sessionmaker[Session]:
    """Sessions on the same database that take no lock and see one moment: a commit between two of
    their reads is not seen. A write in one is refused by the database. They have an engine of
    their own, which has to be disposed of as well."""
    writers: Engine = factory.kw["bind"]
    engine = make_engine(writers.url, read_only=True, patience_s=patience_s)
    return sessionmaker(engine, expire_on_commit=False)


def make_engine(
    database_url: str | URL,
    *,
    foreign_keys: bool = True,
    read_only: bool = False,
    patience_s: float | None = None,
) -> Engine:
    """An engine with the project's settings for its kind of database.

    Args:
        database_url: `sqlite:///path` or `postgresql://...`.
        foreign_keys: False only for migrations, which rebuild tables on SQLite.
        read_only: Its transactions take no lock, see one moment, and the database refuses to
            write in them.
        patience_s: How long a transaction waits for others that hold what it wants to write; by
            default 30 s on SQLite, and as long as the server says on PostgreSQL.
    """
    url = parse_url(database_url)
    options: dict[str, Any] = {
        "json_serializer": partial(json.dumps, allow_nan=False),
        "json_deserializer": _read_json,
    }
    if url.get_backend_name() != "sqlite":
        if read_only:
            options["isolation_level"] = "REPEATABLE READ"
            options["execution_options"] = {"postgresql_readonly": True}
        engine = create_engine(url, pool_pre_ping=True, **options)
        event.listen(engine, "begin", partial(_begin_postgresql, patience_s=patience_s))
        return engine
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    wait_s = BUSY_TIMEOUT_S if patience_s is None else patience_s
    engine = create_engine(url, connect_args={"timeout": wait_s}, **options)
    prepare = partial(_prepare_sqlite, foreign_keys=foreign_keys, read_only=read_only)
    event.listen(engine, "connect", prepare)
    begin = partial(_begin_sqlite, read_only=read_only, patience_s=wait_s)
    event.listen(engine, "begin", begin)
    return engine


def be_impatient(session: Session) -> None:
    """Begins a transaction that waits for nobody: where another one writes, it fails as busy.
    For notes that are worth no wait."""
    session.connection(execution_options={PATIENCE: 0.01})


def is_busy(error: SQLAlchemyError) -> bool:
    """Whether the database only had no turn for us: others hold what this wanted to write."""
    if isinstance(error, PoolTimeout):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else None
    if getattr(cause, "sqlstate", None) in POSTGRESQL_LOCKED:
        return True
    return str(getattr(cause, "sqlite_errorname", "")).startswith(SQLITE_LOCKED)


def reason(error: SQLAlchemyError) -> str:
    """What the database said, in one line, without the statement."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    lines = str(cause or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def parse_url(database_url: str | URL) -> URL:
    """The address with the driver that is installed with us.

    Raises:
        ValueError: it cannot be read, or is neither SQLite nor PostgreSQL.
    """
    if isinstance(database_url, str):
        database_url = database_url.replace("postgres://", "postgresql://", 1)
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # they quote a part of the password
        raise ValueError(
            "DATABASE_URL must be an address such as postgresql://user:password@host/name, with "
            "special characters percent-encoded, but cannot be read"
        ) from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ValueError(f"DATABASE_URL must be for sqlite or postgresql, but got {backend}")
    return url


def _read_json(text: str | bytes) -> Any:
    """The value; the text itself where it is damaged, so that its row can still be listed."""
    try:
        return json.loads(text)
    except ValueError:
        return text if isinstance(text, str) else text.decode(errors="replace")


def _prepare_sqlite(
    dbapi_connection: Any, _record: Any, *, foreign_keys: bool, read_only: bool
) -> None:
    dbapi_connection.isolation_level = None  # transactions begin in `_begin_sqlite`, nowhere else
    cursor = dbapi_connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
    cursor.execute(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
    cursor.close()


def _begin_sqlite(connection: Connection, *, read_only: bool, patience_s: float) -> None:
    wait_s = connection.get_execution_options().get(PATIENCE, patience_s)
    connection.exec_driver_sql(f"PRAGMA busy_timeout={round(wait_s * 1000)}")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection, *, patience_s: float | None) -> None:
    wait_s = connection.get_execution_options().get(PATIENCE, patience_s)
    if wait_s is not None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(wait_s * 1000)}")
