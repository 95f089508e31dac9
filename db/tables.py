"""The tables. What a column means is told in `vocabulary/`; here: types, keys, and the index each query needs.

`heads` is the one narrow, hot row of a conversation: whoever holds its lock may take numbers. Deltas touch no other existing row,
and `events` has no foreign key, so that appending locks nothing but the head.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
    literal_column,
    text,
)

from db.dialect import time_or_last
from db.types import Identifier, Json, Timestamp


def _only(condition: str) -> dict[str, Any]:
    """The options of a partial index, for both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

agents = Table(
    "agents",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant", Identifier, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("instructions", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_settings", Json, nullable=False),
    Column("compaction_settings", Json, nullable=False, server_default=text("'{}'")),
    Column("tools", Json, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),
    Column("erased_at", Timestamp),
    Index("ix_agents_tenant_created", "tenant", "created_at", "id"),
    Index("ix_agents_erasing", "deleted_at", **_only("deleted_at IS NOT NULL AND erased_at IS NULL")),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant", Identifier, nullable=False),
    Column("agent_id", Identifier, ForeignKey("agents.id"), nullable=False),
    Column("summary", Text),
    Column("model", Text),
    Column("model_settings", Json),
    Column("system_message_id", Identifier),
    Column("summary_message_id", Identifier),
    Column("tail_ordinal", Integer, nullable=False),
    Column("forked_from_id", Identifier),
    Column("idempotency_scope", Identifier),
    Column("idempotency_key", Identifier),
    Column("body_hash", String),
    Column("last_message_at", Timestamp),
    Column("last_run_completed_at", Timestamp),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),
    Column("summary_folded", Text),
    Column("forking_since", Timestamp),
    Index("ix_conversations_forking", "forking_since", **_only("forking_since IS NOT NULL")),
    Column("pending_message_id", Identifier),
    Index("ix_conversations_tenant_created", "tenant", "created_at", "id"),
    Index("ix_conversations_agent_created", "agent_id", "created_at", "id"),
    Index("ix_conversations_tenant_updated", "tenant", "updated_at"),
    Index("uq_conversations_idempotency", "idempotency_scope", "idempotency_key", unique=True),
    Index("ix_conversations_pending", "pending_message_id", **_only("pending_message_id IS NOT NULL")),
)

for _column, _name in ((conversations.c.last_message_at, "last_message"), (conversations.c.last_run_completed_at, "last_run")):
    for _descending, _end in ((True, "newest"), (False, "oldest")):
        _order = time_or_last(_column, descending=_descending)
        Index(f"ix_conversations_{_name}_{_end}", conversations.c.tenant, _order, conversations.c.id)

blocks = Table(
    "blocks",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant", Identifier, nullable=False),
    Column("agent_id", Identifier, ForeignKey("agents.id"), nullable=False),
    Column("conversation_id", Identifier, ForeignKey("conversations.id")),
    Column("label", Identifier, nullable=False),
    Column("value", Text, nullable=False),
    Column("description", Text),
    Column("limit", Integer, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Index(
        "uq_blocks_shared",
        "agent_id",
        "label",
        unique=True,
        **_only("conversation_id IS NULL"),
    ),
    Index("uq_blocks_isolated", "conversation_id", "label", unique=True),
)

heads = Table(
    "heads",
    metadata,
    Column("conversation_id", Identifier, primary_key=True),
    Column("head_sequence", Integer, nullable=False),
    Column("next_ordinal", Integer, nullable=False),
    Column("active_run_id", Identifier),
    Column("fence", Integer, nullable=False),
    Column("write_number", Integer, nullable=False),
    Column("list_version", Integer, nullable=False),
    postgresql_with={"fillfactor": 10},  # room for many versions of few heads on each page: docs/decisions/0011
)

messages = Table(
    "messages",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("conversation_id", Identifier, ForeignKey("conversations.id"), nullable=False),
    Column("type", String, nullable=False),
    Column("status", String, nullable=False),
    Column("ordinal", Integer),
    Column("text", Text, nullable=False),
    Column("body", Json, nullable=False),
    Column("in_tail", Boolean, nullable=False),
    Column("group_id", Identifier),
    Column("run_id", Identifier),
    Column("step_id", Identifier),
    Column("started_sequence", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("prunable_since", Timestamp),
    Index("uq_messages_ordinal", "conversation_id", "ordinal", unique=True),
    Index("ix_messages_run", "run_id", "started_sequence"),
    Index("ix_messages_prunable", "prunable_since", **_only("prunable_since IS NOT NULL")),
    Index(
        "ix_messages_open",
        "conversation_id",
        **_only("status IN ('QUEUED', 'IN_PROGRESS')"),
    ),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant", Identifier, nullable=False),
    Column("conversation_id", Identifier, ForeignKey("conversations.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("status", String, nullable=False),
    Column("stop_reason", String),
    Column("error", Json),
    Column("model", Text, nullable=False),
    Column("request", Json, nullable=False),
    Column("usage", Json, nullable=False),
    Column("group_id", Identifier),
    Column("idempotency_key", Identifier),
    Column("body_hash", String),
    Column("applied_through_sequence", Integer, nullable=False),
    Column("created_sequence", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("worker_id", Identifier),
    Column("attempt", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("started_at", Timestamp),
    Column("completed_at", Timestamp),
    Column("time_to_first_token_ms", Integer),
    Column("goes_first", Boolean, nullable=False, server_default=false()),
    Index("uq_runs_idempotency", "conversation_id", "idempotency_key", unique=True),
    Index("ix_runs_created", "conversation_id", "created_sequence"),
    Index(
        "ix_runs_live",
        "conversation_id",
        "created_sequence",
        **_only("status IN ('QUEUED', 'RUNNING')"),
    ),
    Index(
        "uq_runs_running",
        "conversation_id",
        unique=True,
        **_only("status = 'RUNNING'"),
    ),
)

steps = Table(
    "steps",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("run_id", Identifier, ForeignKey("runs.id"), nullable=False),
    Column("conversation_id", Identifier, nullable=False),
    Column("step_index", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("usage", Json, nullable=False),
    Column("stop_reason", String),
    Column("started_at", Timestamp, nullable=False),
    Column("completed_at", Timestamp),
    Column("kind", String, nullable=False, server_default=text("'RESPONSE'")),
    Index("uq_steps_index", "run_id", "step_index", unique=True),
    Index("ix_steps_conversation", "conversation_id", "started_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("started_at", Timestamp, nullable=False),
    Column("lease_expires_at", Timestamp, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("conversation_id", Identifier, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("occurred_at", Timestamp, nullable=False),
    Column("run_id", Identifier),
    Column("message_id", Identifier),
    Column("tool_call_id", Identifier),
    Column("offset", Integer),
    Column("text", Text),
    Column("data", Json),
    PrimaryKeyConstraint("conversation_id", "sequence"),
    sqlite_with_rowid=False,
)


def _among(column: Column[str], *values: str) -> ColumnElement[bool]:
    """In the very words of a partial index: SQLite does not see behind parameters that it could use it, nor does PostgreSQL in a plan that
    it keeps.
    """
    return column.in_([literal_column(f"'{value}'") for value in values])


def live_runs_of(conversation_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Found without those that have ended. The range says nothing new, but makes SQLite prefer the index that has a place for it."""
    return (runs.c.conversation_id == conversation_id) & (runs.c.created_sequence > 0) & IS_LIVE


def open_messages_of(conversation_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Found without those that are finished. A range, because for one key SQLite takes the unique index, which has all."""
    return (messages.c.conversation_id >= conversation_id) & (messages.c.conversation_id <= conversation_id) & IS_OPEN


IS_LIVE = _among(runs.c.status, "QUEUED", "RUNNING")
IS_OPEN = _among(messages.c.status, "QUEUED", "IN_PROGRESS")
