"""Brings a database to the present schema. The migrations lie in `alembic/` of a checkout, or
inside the wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from jobs.database import make_engine
from jobs.errors import UnknownSchema

# Any number will do, as long as nobody else locks it: "secateur" in ASCII, shortened.
_LOCK = 0x7365636174


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrates up. Safe to call from several processes at once: one works, the others wait. One
    that is up to date is only read, whoever writes to it meanwhile.

    Raises:
        UnknownSchema: A newer version wrote this database.
    """
    if revision == "head" and is_current(database_url):
        return
    with _connection(database_url) as connection:
        command.upgrade(_config(connection), revision)


def is_current(database_url: str) -> bool:
    """Whether the database has the present schema.

    Raises:
        UnknownSchema: A newer version wrote it.
    """
    engine = make_engine(database_url, read_only=True)
    try:
        with engine.connect() as connection:
            found = set(MigrationContext.configure(connection).get_current_heads())
            scripts = ScriptDirectory.from_config(_config(connection))
    finally:
        engine.dispose()
    if unknown := found - {script.revision for script in scripts.walk_revisions()}:
        raise UnknownSchema(
            f"the schema of the database must be one up to {scripts.get_current_head()}, but got "
            f"{', '.join(sorted(unknown))}, which a newer version of Secateur made"
        )
    return found == set(scripts.get_heads())


def downgrade(database_url: str, revision: str) -> None:
    """Migrates down to `revision`; `base` is an empty database."""
    with _connection(database_url) as connection:
        command.downgrade(_config(connection), revision)


def folder() -> Path:
    """Where the migrations lie."""
    packaged = Path(__file__).parent / "_alembic"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "alembic"


@contextmanager
def _connection(database_url: str) -> Iterator[Connection]:
    """One transaction around all migrations, and one migrating process at a time."""
    engine = make_engine(database_url, foreign_keys=False)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection
    finally:
        engine.dispose()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
