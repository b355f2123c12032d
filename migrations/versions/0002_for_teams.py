"""For teams: keys, sessions, repeated requests, confirmations; links and asks tell more.

Revision: 0002; follows 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: None = None
depends_on: None = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_keys_hash")),
        sa.UniqueConstraint("name", name=op.f("uq_keys_name")),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_sessions_key_id_keys"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_key_id"), "sessions", ["key_id"])
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])
    op.create_table(
        "requests",
        sa.Column("principal", sa.String(length=80), nullable=False),
        sa.Column("route", sa.String(length=500), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("principal", "route", "key", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_created_at"), "requests", ["created_at"])
    op.create_table(
        "confirmations",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("search_id", ID, nullable=False),
        sa.Column("evaluator", JSON, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("seeds", JSON, nullable=False),
        sa.Column("chosen", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_confirmations_search_id_searches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_confirmations_study_id_studies"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_confirmations")),
    )
    op.create_index(op.f("ix_confirmations_search_id"), "confirmations", ["search_id"])
    # Adding a column with a constant needs no copy of the table on either database.
    op.add_column("study_measurements", sa.Column("number", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(op.f("ix_study_measurements_study_id_number"), "study_measurements", ["study_id", "number"])
    op.create_index(op.f("ix_trials_search_id_completion"), "trials", ["search_id", "completion"])
    op.add_column("asks", sa.Column("took_s", sa.Double(), server_default="0", nullable=False))
    op.execute("INSERT INTO counters (name, value) VALUES ('lease_expiries', 0)")


def downgrade() -> None:
    op.execute("DELETE FROM counters WHERE name = 'lease_expiries'")
    with op.batch_alter_table("asks") as batch:
        batch.drop_column("took_s")
    op.drop_index(op.f("ix_trials_search_id_completion"), "trials")
    op.drop_index(op.f("ix_study_measurements_study_id_number"), "study_measurements")
    with op.batch_alter_table("study_measurements") as batch:
        batch.drop_column("number")
    op.drop_table("confirmations")
    op.drop_table("requests")
    op.drop_table("sessions")
    op.drop_table("keys")
