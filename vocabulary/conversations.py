"""Conversations, agents and memory blocks: enums and frozen rows."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from vocabulary.compaction import CompactionSettings
from vocabulary.model_settings import ModelSettings


class ConversationStatus(StrEnum):
    IDLE = "IDLE"
    RUNNING = "RUNNING"
    AWAITING_INPUT = "AWAITING_INPUT"


class ConversationOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    LAST_MESSAGE_AT = "LAST_MESSAGE_AT"
    LAST_RUN_COMPLETED_AT = "LAST_RUN_COMPLETED_AT"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTool:
    """A server tool that an agent may use. `requires_approval` None: the tool's own default."""

    name: str
    requires_approval: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    id: str
    tenant: str
    name: str
    description: str | None
    instructions: str
    model: str
    model_settings: ModelSettings
    compaction_settings: CompactionSettings
    tools: tuple[AgentTool, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`conversation_id` set: isolated, this conversation's own copy; else shared through the agent. `limit` in characters."""

    id: str
    tenant: str
    agent_id: str
    conversation_id: str | None
    label: str
    value: str
    description: str | None
    limit: int
    read_only: bool
    updated_at: datetime

    @property
    def isolated(self) -> bool:
        return self.conversation_id is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A row of `conversations` with its head. The context is three values: `system_message_id`, `summary_message_id`, `tail_ordinal`.

    `pending_message_id`: the APPROVAL_REQUEST whose calls wait; until they are answered no run but a compaction starts.
    """

    id: str
    tenant: str
    agent_id: str
    summary: str | None
    model: str | None
    model_settings: ModelSettings | None
    status: ConversationStatus
    head_sequence: int
    system_message_id: str | None
    summary_message_id: str | None
    tail_ordinal: int
    forked_from_id: str | None
    last_message_at: datetime | None
    last_run_completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    pending_message_id: str | None = None
