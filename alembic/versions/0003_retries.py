"""Passing errors: how often jobs and tasks met one in a row, and when they are tried again.

Revision: 0003, after: 0002
Created: 2026-11-29 20:15:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for table in ("jobs", "tasks"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            count = sa.Column("tries", sa.Integer(), nullable=False, server_default="0")
            batch_op.add_column(count)
            batch_op.add_column(sa.Column("try_at", sa.DateTime(timezone=True), nullable=True))
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.alter_column("tries", server_default=None, existing_type=sa.Integer())
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("trouble", sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("trouble")
    for table in ("tasks", "jobs"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("try_at")
            batch_op.drop_column("tries")
