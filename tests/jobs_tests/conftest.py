"""Databases built by the migrations: contract tests run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session, sessionmaker

from jobs import migrations
from jobs.database import make_engine, parse_url, writing
from jobs.ids import new_id
from jobs.tables import Base
from tests.jobs_tests.postgres import postgres_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty database of each kind, migrated once."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('database') / 'secateur.db'}"
    else:
        url = empty_postgres(request.getfixturevalue("postgres_url"))
    migrations.upgrade(url)
    return url


@pytest.fixture
def factory(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Writing sessions. What a test leaves is deleted after it."""
    engine = make_engine(database_url)
    yield writing(engine)
    with writing(engine).begin() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(delete(table))
    engine.dispose()


@pytest.fixture
def session(factory: sessionmaker[Session]) -> Iterator[Session]:
    """One writing session, never committed."""
    with factory() as session:
        yield session


def empty_postgres(server_url: str) -> str:
    """A new, empty database on a server."""
    name = new_id("test")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return parse_url(server_url).set(database=name).render_as_string(hide_password=False)
