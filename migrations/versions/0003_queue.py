"""A queue that loses nothing: classes of failure, fair shares, what a job needs of a device, the devices themselves.

Revision: 0003; follows 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: None = None
depends_on: None = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("type", sa.String(length=20), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("software", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_devices")),
    )
    op.add_column("jobs", sa.Column("turn", sa.Double(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("failure", sa.String(length=20), nullable=True))
    op.add_column("jobs", sa.Column("needs_device_type", sa.String(length=20), nullable=True))
    op.add_column("jobs", sa.Column("needs_memory_mb", sa.Integer(), nullable=True))
    op.drop_index(op.f("ix_jobs_state_priority_id"), table_name="jobs")
    op.create_index(op.f("ix_jobs_state_priority_turn_id"), "jobs", ["state", "priority", "turn", "id"])
    op.add_column("searches", sa.Column("turn", sa.Double(), nullable=False, server_default="0"))
    op.add_column("searches", sa.Column("share", sa.Double(), nullable=False, server_default="1"))
    op.add_column("searches", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("trials", sa.Column("earlier", JSON, nullable=True))
    op.add_column("studies", sa.Column("resources", JSON, nullable=True))
    op.add_column("supernets", sa.Column("resources", JSON, nullable=True))
    op.add_column("measurements", sa.Column("spread", sa.Double(), nullable=True))
    latencies = sa.text("substr(metric, 1, 10) = 'latency_ms'")
    op.create_index(
        "ix_measurements_latencies",
        "measurements",
        ["context_digest"],
        postgresql_where=latencies,
        sqlite_where=latencies,
    )
    _register_devices()


def _register_devices() -> None:
    """The devices of the workers that are known, as they announced them last."""
    workers = sa.table(
        "workers", sa.column("device", JSON), sa.column("created_at", TIME), sa.column("last_seen_at", TIME)
    )
    devices = sa.table(
        "devices",
        sa.column("name", sa.String),
        sa.column("type", sa.String),
        sa.column("memory_mb", sa.Integer),
        sa.column("software", JSON),
        sa.column("created_at", TIME),
        sa.column("last_seen_at", TIME),
    )
    found: dict[str, dict[str, object]] = {}
    for device, created_at, last_seen_at in op.get_bind().execute(sa.select(workers).order_by(workers.c.last_seen_at)):
        found[device["name"]] = {
            **{field: device[field] for field in ("name", "type", "memory_mb", "software")},
            "created_at": found.get(device["name"], {"created_at": created_at})["created_at"],
            "last_seen_at": last_seen_at,
        }
    if found:
        op.bulk_insert(devices, list(found.values()))


def downgrade() -> None:
    op.drop_index("ix_measurements_latencies", table_name="measurements")
    dropped = {
        "measurements": ["spread"],
        "supernets": ["resources"],
        "studies": ["resources"],
        "trials": ["earlier"],
        "searches": ["priority", "share", "turn"],
    }
    for table, columns in dropped.items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column)
    op.drop_index(op.f("ix_jobs_state_priority_turn_id"), table_name="jobs")
    with op.batch_alter_table("jobs") as batch:
        for column in ("needs_memory_mb", "needs_device_type", "failure", "turn"):
            batch.drop_column(column)
    op.create_index(op.f("ix_jobs_state_priority_id"), "jobs", ["state", "priority", "id"])
    op.drop_table("devices")
