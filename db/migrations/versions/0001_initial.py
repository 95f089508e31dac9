"""The first tables."""

import sqlalchemy as sa
from alembic import op

from db.types import Identifier, Json, Timestamp

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("tenant", Identifier, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_settings", Json, nullable=False),
        sa.Column("tools", Json, nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_index("ix_agents_tenant_created", "agents", ["tenant", "created_at", "id"], unique=False)
    op.create_table(
        "events",
        sa.Column("conversation_id", Identifier, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("occurred_at", Timestamp(), nullable=False),
        sa.Column("run_id", Identifier, nullable=True),
        sa.Column("message_id", Identifier, nullable=True),
        sa.Column("tool_call_id", Identifier, nullable=True),
        sa.Column("offset", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("data", Json, nullable=True),
        sa.PrimaryKeyConstraint("conversation_id", "sequence", name=op.f("pk_events")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "heads",
        sa.Column("conversation_id", Identifier, nullable=False),
        sa.Column("head_sequence", sa.Integer(), nullable=False),
        sa.Column("next_ordinal", sa.Integer(), nullable=False),
        sa.Column("active_run_id", Identifier, nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("write_number", sa.Integer(), nullable=False),
        sa.Column("list_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", name=op.f("pk_heads")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "workers",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("started_at", Timestamp(), nullable=False),
        sa.Column("lease_expires_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "conversations",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("tenant", Identifier, nullable=False),
        sa.Column("agent_id", Identifier, nullable=False),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("model_settings", Json, nullable=True),
        sa.Column("system_message_id", Identifier, nullable=True),
        sa.Column("summary_message_id", Identifier, nullable=True),
        sa.Column("tail_ordinal", sa.Integer(), nullable=False),
        sa.Column("forked_from_id", Identifier, nullable=True),
        sa.Column("idempotency_scope", Identifier, nullable=True),
        sa.Column("idempotency_key", Identifier, nullable=True),
        sa.Column("body_hash", sa.String(), nullable=True),
        sa.Column("last_message_at", Timestamp(), nullable=True),
        sa.Column("last_run_completed_at", Timestamp(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_conversations_agent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    op.create_index("ix_conversations_agent_created", "conversations", ["agent_id", "created_at", "id"], unique=False)
    op.create_index("ix_conversations_tenant_created", "conversations", ["tenant", "created_at", "id"], unique=False)
    op.create_index("ix_conversations_tenant_last_message", "conversations", ["tenant", "last_message_at", "id"], unique=False)
    op.create_index("ix_conversations_tenant_last_run", "conversations", ["tenant", "last_run_completed_at", "id"], unique=False)
    op.create_index("uq_conversations_idempotency", "conversations", ["idempotency_scope", "idempotency_key"], unique=True)
    op.create_table(
        "blocks",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("tenant", Identifier, nullable=False),
        sa.Column("agent_id", Identifier, nullable=False),
        sa.Column("conversation_id", Identifier, nullable=True),
        sa.Column("label", Identifier, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_blocks_agent_id")),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name=op.f("fk_blocks_conversation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blocks")),
    )
    op.create_index("uq_blocks_isolated", "blocks", ["conversation_id", "label"], unique=True)
    op.create_index(
        "uq_blocks_shared",
        "blocks",
        ["agent_id", "label"],
        unique=True,
        sqlite_where=sa.text("conversation_id IS NULL"),
        postgresql_where=sa.text("conversation_id IS NULL"),
    )
    op.create_table(
        "messages",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("conversation_id", Identifier, nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("in_tail", sa.Boolean(), nullable=False),
        sa.Column("group_id", Identifier, nullable=True),
        sa.Column("run_id", Identifier, nullable=True),
        sa.Column("step_id", Identifier, nullable=True),
        sa.Column("started_sequence", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("prunable_since", Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name=op.f("fk_messages_conversation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
    )
    op.create_index(
        "ix_messages_open",
        "messages",
        ["conversation_id"],
        unique=False,
        sqlite_where=sa.text("status IN ('QUEUED', 'IN_PROGRESS')"),
        postgresql_where=sa.text("status IN ('QUEUED', 'IN_PROGRESS')"),
    )
    op.create_index(
        "ix_messages_prunable",
        "messages",
        ["prunable_since"],
        unique=False,
        sqlite_where=sa.text("prunable_since IS NOT NULL"),
        postgresql_where=sa.text("prunable_since IS NOT NULL"),
    )
    op.create_index("ix_messages_run", "messages", ["run_id", "started_sequence"], unique=False)
    op.create_index("uq_messages_ordinal", "messages", ["conversation_id", "ordinal"], unique=True)
    op.create_table(
        "runs",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("tenant", Identifier, nullable=False),
        sa.Column("conversation_id", Identifier, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("stop_reason", sa.String(), nullable=True),
        sa.Column("error", Json, nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("request", Json, nullable=False),
        sa.Column("usage", Json, nullable=False),
        sa.Column("group_id", Identifier, nullable=True),
        sa.Column("idempotency_key", Identifier, nullable=True),
        sa.Column("body_hash", sa.String(), nullable=True),
        sa.Column("applied_through_sequence", sa.Integer(), nullable=False),
        sa.Column("created_sequence", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("worker_id", Identifier, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("started_at", Timestamp(), nullable=True),
        sa.Column("completed_at", Timestamp(), nullable=True),
        sa.Column("time_to_first_token_ms", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name=op.f("fk_runs_conversation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_created", "runs", ["conversation_id", "created_sequence"], unique=False)
    op.create_index(
        "ix_runs_live",
        "runs",
        ["conversation_id", "created_sequence"],
        unique=False,
        sqlite_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
        postgresql_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
    )
    op.create_index("uq_runs_idempotency", "runs", ["conversation_id", "idempotency_key"], unique=True)
    op.create_index(
        "uq_runs_running",
        "runs",
        ["conversation_id"],
        unique=True,
        sqlite_where=sa.text("status = 'RUNNING'"),
        postgresql_where=sa.text("status = 'RUNNING'"),
    )
    op.create_table(
        "steps",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("run_id", Identifier, nullable=False),
        sa.Column("conversation_id", Identifier, nullable=False),
        sa.Column("step_index", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("usage", Json, nullable=False),
        sa.Column("stop_reason", sa.String(), nullable=True),
        sa.Column("started_at", Timestamp(), nullable=False),
        sa.Column("completed_at", Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_steps_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
    )
    op.create_index("uq_steps_index", "steps", ["run_id", "step_index"], unique=True)
