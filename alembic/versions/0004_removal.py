"""Indexes for removal: which jobs use a model or a data set, which requests name a skeleton.

Revision: 0004, after: 0003
Created: 2026-11-29 20:10:00
"""

from __future__ import annotations

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

INDEXES = {
    "jobs": ("model_id", "dataset_id"),
    "requests": ("skeleton_digest", "reference_digest"),
}


def upgrade() -> None:
    for table, columns in INDEXES.items():
        for column in columns:
            op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)


def downgrade() -> None:
    for table, columns in INDEXES.items():
        for column in columns:
            op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
