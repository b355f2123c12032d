"""Zero-cost proxies: those that are not defined for an architecture are remembered, predictors read scores.

Revision: 0004; follows 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: None = None
depends_on: None = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "undefined_scores",
        sa.Column("architecture_id", ID, nullable=False),
        sa.Column("metric", sa.String(length=144), nullable=False),
        sa.Column("context_digest", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["architectures.id"], name=op.f("fk_undefined_scores_architecture_id_architectures")
        ),
        sa.ForeignKeyConstraint(
            ["context_digest"], ["contexts.digest"], name=op.f("fk_undefined_scores_context_digest_contexts")
        ),
        sa.PrimaryKeyConstraint("architecture_id", "metric", "context_digest", name=op.f("pk_undefined_scores")),
    )
    op.add_column("predictors", sa.Column("features", JSON, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("predictors") as batch:
        batch.drop_column("features")
    op.drop_table("undefined_scores")
