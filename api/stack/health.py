"""`python -m api.stack.health`: whether database and broker can be reached from here.

The health check of containers that serve no HTTP; exits with 1 and one line of reasons.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.database import make_engine
from jobs.settings import Settings


def troubles(settings: Settings) -> list[str]:
    """What cannot be reached."""
    found = []
    try:
        with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=3) as broker:
            broker.ping()
    except redis.RedisError as error:
        found.append(f"the broker does not answer: {error}")
    try:
        with closing_engine(settings.database_url) as engine, engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        found.append(f"the database does not answer: {error}")
    return found


@contextmanager
def closing_engine(database_url: str) -> Iterator[Engine]:
    """An engine that gives its connections back at the end."""
    engine = make_engine(database_url, read_only=True)
    try:
        yield engine
    finally:
        engine.dispose()


def main() -> None:
    """Exits with 0 if all is well."""
    if found := troubles(Settings()):
        sys.exit("; ".join(found))


if __name__ == "__main__":
    main()
