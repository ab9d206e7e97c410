"""Nodes of a tree say at which version of their job they were written, and how many layers are in
int8, so that a tree can be read by what is new.

Revision: 0007, after: 0006
Created: 2026-11-30 09:00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

COUNTED = {
    "sqlite": "UPDATE candidates SET int8_layers = json_array_length(plan, '$.int8')"
    " WHERE json_valid(plan) AND json_array_length(plan, '$.int8') > 0",
    "postgresql": "UPDATE candidates SET int8_layers = json_array_length(plan->'int8')"
    " WHERE json_typeof(plan->'int8') = 'array'",
}


def upgrade() -> None:
    with op.batch_alter_table("candidates", schema=None) as batch_op:
        for name in ("version", "int8_layers"):
            batch_op.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.execute(COUNTED[op.get_bind().dialect.name])


def downgrade() -> None:
    with op.batch_alter_table("candidates", schema=None) as batch_op:
        for name in ("int8_layers", "version"):
            batch_op.drop_column(name)
