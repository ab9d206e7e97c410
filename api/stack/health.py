"""`python -m api.stack.health`: whether database and broker can be reached from here.

The health check of containers that serve no HTTP; exits with 1 and one line of reasons.
"""

import sys

import redis
from sqlalchemy import text
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
    engine = make_engine(settings.database_url)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        found.append(f"the database does not answer: {error}")
    finally:
        engine.dispose()
    return found


def main() -> None:
    """Exits with 0 if all is well."""
    if found := troubles(Settings()):
        sys.exit("; ".join(found))


if __name__ == "__main__":
    main()
