"""Engines and sessions, for SQLite and PostgreSQL alike. It knows no table.

Writing sessions on SQLite start with `BEGIN IMMEDIATE`: they wait for their turn (30 s at most)
before they read anything, so a commit is never refused because another process wrote meanwhile.
Reading sessions take no lock and cannot write. With WAL and `synchronous=NORMAL` a killed process
loses no commit.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

from jobs.settings import Settings

BUSY_TIMEOUT_S = 30.0
READING = "secateur_reading"


def sessions(settings: Settings) -> sessionmaker[Session]:
    """Writing sessions on the database of `settings`: `with sessions(settings).begin() as
    session`."""
    return writing(make_engine(settings.database_url))


def writing(engine: Engine) -> sessionmaker[Session]:
    """Sessions that may write. Objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def reading(factory: sessionmaker[Session]) -> sessionmaker[Session]:
    """Sessions on the same engine that take no lock; a write in one is refused by the
    database."""
    engine: Engine = factory.kw["bind"]
    options: dict[str, Any] = {READING: True}
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    return sessionmaker(engine.execution_options(**options), expire_on_commit=False)


def make_engine(database_url: str, *, foreign_keys: bool = True) -> Engine:
    """An engine with the project's settings for its kind of database.

    Args:
        database_url: `sqlite:///path` or `postgresql://...`.
        foreign_keys: False only for migrations, which rebuild tables on SQLite.
    """
    url = parse_url(database_url)
    options: dict[str, Any] = {"json_serializer": partial(json.dumps, allow_nan=False)}
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, **options)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)
    event.listen(engine, "connect", partial(_prepare_sqlite, foreign_keys=foreign_keys))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def parse_url(database_url: str) -> URL:
    """The address with the driver that is installed with us.

    Raises:
        ValueError: it is neither SQLite nor PostgreSQL.
    """
    url = make_url(database_url.replace("postgres://", "postgresql://", 1))
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ValueError(f"DATABASE_URL must be for sqlite or postgresql, but got {backend}")
    return url


def _prepare_sqlite(dbapi_connection: Any, _record: Any, *, foreign_keys: bool) -> None:
    dbapi_connection.isolation_level = None  # transactions begin in `_begin_sqlite`, nowhere else
    cursor = dbapi_connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    is_reading = bool(connection.get_execution_options().get(READING))
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if is_reading else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
