"""Checks of models and data sets run under a lease, and their runs are counted.

Revision: 0006, after: 0005
Created: 2026-11-29 20:30:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = ("models", "datasets")


def upgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(
                sa.Column("attempt", sa.Integer(), nullable=False, server_default="0")
            )
            batch_op.add_column(
                sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True)
            )
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.alter_column(
                "attempt", existing_type=sa.Integer(), existing_nullable=False, server_default=None
            )


def downgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("lease_until")
            batch_op.drop_column("attempt")
