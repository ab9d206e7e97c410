"""Runs migrations on the connection that `jobs.migrations` hands over, or on `DATABASE_URL` for
the alembic command."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext

from jobs.columns import UtcDateTime
from jobs.database import make_engine
from jobs.settings import Settings
from jobs.tables import Base


def render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Migrations are history: they name database types, never types of ours that may change."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, sa.Enum):
        return f"sa.String(length={item.length})"
    if kind == "type" and isinstance(item, sa.JSON):
        return "sa.JSON()"
    return False


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=render_item,
        compare_type=True,
        compare_server_default=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
elif context.is_offline_mode():
    raise SystemExit("migrations must run on a database, but got --sql")
else:
    engine = make_engine(Settings().database_url, foreign_keys=False)
    with engine.begin() as connection:
        run(connection)
    engine.dispose()
