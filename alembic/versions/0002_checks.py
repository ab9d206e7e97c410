"""Checks of devices; a request and its measurements belong to a job or to a check.

Revision: 0002, after: 0001
Created: 2026-11-22 22:32:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "checks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("skeleton_digest", sa.String(), nullable=False),
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("target_key", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("waiting_for", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_checks_device_id_devices")
        ),
        sa.ForeignKeyConstraint(
            ["skeleton_digest"],
            ["skeletons.digest"],
            name=op.f("fk_checks_skeleton_digest_skeletons"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checks")),
    )
    with op.batch_alter_table("checks", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_checks_device_id_created_at"), ["device_id", "created_at"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_checks_state"), ["state"], unique=False)

    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("check_id", sa.String(), nullable=True))
        batch_op.alter_column("job_id", existing_type=sa.String(), nullable=True)
        batch_op.create_unique_constraint(
            batch_op.f("uq_requests_check_id_purpose"), ["check_id", "purpose"]
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_requests_check_id_checks"), "checks", ["check_id"], ["id"]
        )

    with op.batch_alter_table("measurements", schema=None) as batch_op:
        batch_op.add_column(sa.Column("check_id", sa.String(), nullable=True))
        batch_op.alter_column("job_id", existing_type=sa.String(), nullable=True)
        batch_op.create_index(batch_op.f("ix_measurements_check_id"), ["check_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_measurements_device_id_created_at"),
            ["device_id", "created_at"],
            unique=False,
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_measurements_check_id_checks"), "checks", ["check_id"], ["id"]
        )


def downgrade() -> None:
    op.execute("DELETE FROM measurements WHERE check_id IS NOT NULL")
    op.execute("DELETE FROM requests WHERE check_id IS NOT NULL")
    with op.batch_alter_table("measurements", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_measurements_check_id_checks"), type_="foreignkey")
        batch_op.drop_index(batch_op.f("ix_measurements_device_id_created_at"))
        batch_op.drop_index(batch_op.f("ix_measurements_check_id"))
        batch_op.alter_column("job_id", existing_type=sa.String(), nullable=False)
        batch_op.drop_column("check_id")

    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_requests_check_id_checks"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("uq_requests_check_id_purpose"), type_="unique")
        batch_op.alter_column("job_id", existing_type=sa.String(), nullable=False)
        batch_op.drop_column("check_id")

    with op.batch_alter_table("checks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_checks_state"))
        batch_op.drop_index(batch_op.f("ix_checks_device_id_created_at"))

    op.drop_table("checks")
