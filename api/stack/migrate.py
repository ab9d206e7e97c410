"""`python -m api.stack.migrate`: brings the database of the environment to the present schema."""

import sys
from typing import TypeGuard

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from api.stack.errors import DatabaseUnavailable
from jobs.database import is_busy, reason
from jobs.errors import UnknownSchema
from jobs.migrations import upgrade
from jobs.settings import Settings

POSTGRESQL_FULL = "53100"  # disk_full
ELSEWHERE = "or name another database with DATABASE_URL, or another home with --home"


def migrate() -> None:
    """Migrates and returns; safe to run from several places at once.

    Raises:
        DatabaseUnavailable: It cannot be used; the message says what to change.
    """
    try:
        upgrade(Settings().database_url)
    except (UnknownSchema, SQLAlchemyError, ValueError, OSError) as error:
        raise DatabaseUnavailable(sentence(error)) from error


def sentence(error: Exception) -> str:
    """Why a database cannot be used, and what to change."""
    if isinstance(error, UnknownSchema):
        return f"{error}: start the version that made it, {ELSEWHERE}."
    if isinstance(error, SQLAlchemyError) and is_busy(error):
        return (
            "the database must be free while it is brought to the present schema, but another "
            f"process writes to it ({reason(error)}): end that one, and start again."
        )
    if has_code(error, "SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return (
            f"the database must be one that can be read, but {reason(error)}: put a backup in "
            f"its place, {ELSEWHERE}."
        )
    if has_code(error, "SQLITE_FULL", POSTGRESQL_FULL):
        return (
            f"the disk of the database must have room, but {reason(error)}: free some space, "
            f"{ELSEWHERE}."
        )
    words = reason(error) if isinstance(error, SQLAlchemyError) else str(error).splitlines()[0]
    return f"DATABASE_URL must name a database that can be used, but: {words}"


def has_code(error: Exception, *codes: str) -> TypeGuard[DBAPIError]:
    """Whether the database gave one of these codes as its reason."""
    if not isinstance(error, DBAPIError):
        return False
    name = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    return str(name).startswith(codes)


def main() -> None:
    """Migrates, or exits with 1 and the reason."""
    try:
        migrate()
    except DatabaseUnavailable as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
