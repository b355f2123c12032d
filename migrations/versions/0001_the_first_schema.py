"""The first schema.

Revision: 0001; follows none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: None = None
depends_on: None = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "architectures",
        sa.Column("id", ID, nullable=False),
        sa.Column("space_digest", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("genes", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_architectures")),
        sa.UniqueConstraint("space_digest", "key", name=op.f("uq_architectures_space_digest_key")),
    )
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "contexts",
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_contexts")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "datasets",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("shape", JSON, nullable=False),
        sa.Column("classes", sa.Integer(), nullable=False),
        sa.Column("counts", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", "digest", name=op.f("pk_datasets")),
    )
    op.create_table(
        "events",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=True),
        sa.Column("search_id", sa.BigInteger(), nullable=True),
        sa.Column("body", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_study_id_number"), "events", ["study_id", "number"])
    op.create_table(
        "spaces",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("plugin", sa.String(length=63), nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("identity", sa.String(length=10), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("choices", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spaces")),
        sa.UniqueConstraint("name", name=op.f("uq_spaces_name")),
    )
    op.create_index(op.f("ix_spaces_digest"), "spaces", ["digest"])
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kinds", JSON, nullable=False),
        sa.Column("device", JSON, nullable=False),
        sa.Column("datasets", JSON, nullable=False),
        sa.Column("evaluators", JSON, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "measurements",
        sa.Column("id", ID, nullable=False),
        sa.Column("architecture_id", ID, nullable=False),
        sa.Column("metric", sa.String(length=144), nullable=False),
        sa.Column("context_digest", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=True),
        sa.Column("worker", sa.String(length=63), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["architectures.id"], name=op.f("fk_measurements_architecture_id_architectures")
        ),
        sa.ForeignKeyConstraint(
            ["context_digest"], ["contexts.digest"], name=op.f("fk_measurements_context_digest_contexts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
        sa.UniqueConstraint(
            "architecture_id",
            "metric",
            "context_digest",
            "attempt",
            name=op.f("uq_measurements_architecture_id_metric_context_digest_attempt"),
        ),
    )
    op.create_table(
        "supernets",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("space_id", ID, nullable=False),
        sa.Column("task", JSON, nullable=False),
        sa.Column("recipe", JSON, nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("weights", sa.String(length=64), nullable=True),
        sa.Column("summary", JSON, nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_supernets_space_id_spaces")),
        sa.ForeignKeyConstraint(["weights"], ["artifacts.digest"], name=op.f("fk_supernets_weights_artifacts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_supernets")),
        sa.UniqueConstraint("name", name=op.f("uq_supernets_name")),
    )
    op.create_table(
        "studies",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("space_id", ID, nullable=False),
        sa.Column("supernet_id", ID, nullable=True),
        sa.Column("task", JSON, nullable=False),
        sa.Column("objectives", JSON, nullable=False),
        sa.Column("constraints", JSON, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("evaluator", JSON, nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("searches", sa.Integer(), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_studies_space_id_spaces")),
        sa.ForeignKeyConstraint(["supernet_id"], ["supernets.id"], name=op.f("fk_studies_supernet_id_supernets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("name", name=op.f("uq_studies_name")),
    )
    op.create_table(
        "searches",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("designer", sa.String(length=63), nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("budget", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("slack", sa.Integer(), nullable=False),
        sa.Column("probe_share", sa.Double(), nullable=False),
        sa.Column("max_failures", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("completions", sa.Integer(), nullable=False),
        sa.Column("designer_state", JSON, nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("controller", sa.String(length=63), nullable=True),
        sa.Column("leased_until", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_searches_study_id_studies"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("study_id", "name", name=op.f("uq_searches_study_id_name")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_searches_study_id_number")),
    )
    op.create_index(op.f("ix_searches_state"), "searches", ["state"])
    op.create_table(
        "study_measurements",
        sa.Column("study_id", ID, nullable=False),
        sa.Column("measurement_id", ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"],
            ["measurements.id"],
            name=op.f("fk_study_measurements_measurement_id_measurements"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_study_measurements_study_id_studies"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("study_id", "measurement_id", name=op.f("pk_study_measurements")),
    )
    op.create_index(op.f("ix_study_measurements_measurement_id"), "study_measurements", ["measurement_id"])
    op.create_table(
        "asks",
        sa.Column("search_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seen", JSON, nullable=False),
        sa.Column("state_before", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_asks_search_id_searches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_asks")),
    )
    op.create_table(
        "predictors",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("search_id", ID, nullable=True),
        sa.Column("ask", sa.Integer(), nullable=True),
        sa.Column("completion", sa.Integer(), nullable=True),
        sa.Column("metric", sa.String(length=144), nullable=False),
        sa.Column("family", sa.String(length=63), nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("seed", JSON, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("artifact", sa.String(length=64), nullable=True),
        sa.Column("summary", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.digest"], name=op.f("fk_predictors_artifact_artifacts")),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_predictors_search_id_searches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_predictors_study_id_studies"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_predictors")),
        sa.UniqueConstraint("search_id", "ask", "metric", name=op.f("uq_predictors_search_id_ask_metric")),
    )
    op.create_index(op.f("ix_predictors_study_id"), "predictors", ["study_id"])
    op.create_table(
        "trials",
        sa.Column("id", ID, nullable=False),
        sa.Column("search_id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ask", sa.Integer(), nullable=False),
        sa.Column("architecture_id", ID, nullable=False),
        sa.Column("fidelity", sa.Double(), nullable=False),
        sa.Column("wanted", JSON, nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("suggestion", sa.Text(), nullable=False),
        sa.Column("probe", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("evaluation", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("memo", JSON, nullable=False),
        sa.Column("predicted", JSON, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("reused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("paid_s", sa.Double(), nullable=False),
        sa.Column("completion", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["architectures.id"], name=op.f("fk_trials_architecture_id_architectures")
        ),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_trials_search_id_searches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_trials_study_id_studies"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("search_id", "number", name=op.f("uq_trials_search_id_number")),
    )
    op.create_index(op.f("ix_trials_architecture_id"), "trials", ["architecture_id"])
    op.create_index(op.f("ix_trials_search_id_state"), "trials", ["search_id", "state"])
    op.create_index(op.f("ix_trials_study_id_id"), "trials", ["study_id", "id"])
    op.create_table(
        "jobs",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("study_id", ID, nullable=True),
        sa.Column("search_id", ID, nullable=True),
        sa.Column("trial_id", ID, nullable=True),
        sa.Column("supernet_id", ID, nullable=True),
        sa.Column("predictor_id", ID, nullable=True),
        sa.Column("architecture_id", ID, nullable=True),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("needs_dataset", sa.String(length=64), nullable=True),
        sa.Column("needs_evaluator", sa.String(length=63), nullable=True),
        sa.Column("needs_device", sa.String(length=80), nullable=True),
        sa.Column("needs_weights", sa.String(length=64), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=63), nullable=True),
        sa.Column("lease_s", sa.Double(), nullable=True),
        sa.Column("leased_until", TIME, nullable=True),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("checkpoint", sa.String(length=64), nullable=True),
        sa.Column("result", JSON, nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("leased_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["architectures.id"], name=op.f("fk_jobs_architecture_id_architectures")
        ),
        sa.ForeignKeyConstraint(
            ["predictor_id"], ["predictors.id"], name=op.f("fk_jobs_predictor_id_predictors"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_jobs_search_id_searches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_jobs_study_id_studies"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["supernet_id"], ["supernets.id"], name=op.f("fk_jobs_supernet_id_supernets"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_jobs_trial_id_trials"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_architecture_id"), "jobs", ["architecture_id"])
    op.create_index(op.f("ix_jobs_predictor_id"), "jobs", ["predictor_id"])
    op.create_index(op.f("ix_jobs_search_id"), "jobs", ["search_id"])
    op.create_index(op.f("ix_jobs_state_leased_until"), "jobs", ["state", "leased_until"])
    op.create_index(op.f("ix_jobs_state_priority_id"), "jobs", ["state", "priority", "id"])
    op.create_index(op.f("ix_jobs_study_id"), "jobs", ["study_id"])
    op.create_index(op.f("ix_jobs_supernet_id"), "jobs", ["supernet_id"])
    op.create_index(op.f("ix_jobs_trial_id"), "jobs", ["trial_id"])
    # Numbers are taken from this row, so it must be there before the first event.
    op.execute("INSERT INTO counters (name, value) VALUES ('events', 0)")


def downgrade() -> None:
    op.drop_table("jobs")
    op.drop_table("trials")
    op.drop_table("predictors")
    op.drop_table("asks")
    op.drop_table("study_measurements")
    op.drop_table("searches")
    op.drop_table("studies")
    op.drop_table("supernets")
    op.drop_table("measurements")
    op.drop_table("workers")
    op.drop_table("spaces")
    op.drop_table("events")
    op.drop_table("datasets")
    op.drop_table("counters")
    op.drop_table("contexts")
    op.drop_table("artifacts")
    op.drop_table("architectures")
