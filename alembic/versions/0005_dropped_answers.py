"""How many answers of a device were dropped, because it was never given their leases.

Revision: 0005, after: 0004
Created: 2026-11-29 20:30:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column(
        "devices", sa.Column("dropped_answers", sa.Integer(), server_default="0", nullable=False)
    )


def downgrade() -> None:
    with op.batch_alter_table("devices") as table:
        table.drop_column("dropped_answers")
