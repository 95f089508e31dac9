"""Rows as their commands would write them, for tests that need them in the database and not how they came there."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from db import agents, conversations, heads
from db.engine import Connection, Database
from db.heads import Head
from vocabulary.compaction import CompactionSettings
from vocabulary.conversations import Agent, Conversation, ConversationStatus
from vocabulary.ids import Noun, new_id
from vocabulary.messages import Message, MessageStatus, MessageType, PlainBody, ToolCall, ToolCallState, ToolSource
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunKind, RunRequest, RunStatus, Usage

TENANT = "default"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def an_agent(**fields: Any) -> Agent:
    agent = Agent(
        id=new_id(Noun.AGENT),
        tenant=TENANT,
        name="tester",
        description=None,
        instructions="",
        model="demo/echo",
        model_settings=ModelSettings(),
        compaction_settings=CompactionSettings(),
        tools=(),
        created_at=NOON,
        updated_at=NOON,
    )
    return replace(agent, **fields)


def a_conversation(agent_id: str, **fields: Any) -> Conversation:
    conversation = Conversation(
        id=new_id(Noun.CONVERSATION),
        tenant=TENANT,
        agent_id=agent_id,
        summary=None,
        model=None,
        model_settings=None,
        status=ConversationStatus.IDLE,
        head_sequence=0,
        system_message_id=None,
        summary_message_id=None,
        tail_ordinal=1,
        forked_from_id=None,
        last_message_at=None,
        last_run_completed_at=None,
        created_at=NOON,
        updated_at=NOON,
    )
    return replace(conversation, **fields)


def a_message(conversation_id: str, **fields: Any) -> Message:
    """Finished; as it opens: `status=MessageStatus.IN_PROGRESS`."""
    message = Message(
        id=new_id(Noun.MESSAGE),
        conversation_id=conversation_id,
        type=MessageType.ASSISTANT,
        status=MessageStatus.COMPLETED,
        ordinal=1,
        text="",
        body=PlainBody(),
        in_tail=True,
        in_context=True,
        group_id=None,
        run_id=None,
        step_id=None,
        sequence=1,
        created_at=NOON,
    )
    return replace(message, **fields)


def a_call(**fields: Any) -> ToolCall:
    """As it appears."""
    call = ToolCall(id=new_id(Noun.TOOL_CALL), name="look", state=ToolCallState.STREAMING, source=ToolSource.BUILTIN)
    return replace(call, **fields)


def a_run(conversation_id: str, **fields: Any) -> Run:
    run = Run(
        id=new_id(Noun.RUN),
        tenant=TENANT,
        conversation_id=conversation_id,
        kind=RunKind.RESPONSE,
        status=RunStatus.RUNNING,
        stop_reason=None,
        error=None,
        model="demo/echo",
        request=RunRequest(max_steps=1),
        usage=Usage(),
        group_id=None,
        idempotency_key=None,
        body_hash=None,
        applied_through_sequence=1,
        created_sequence=1,
        sequence=1,
        worker_id=None,
        attempt=1,
        created_at=NOON,
        started_at=None,
        completed_at=None,
        time_to_first_token_ms=None,
    )
    return replace(run, **fields)


async def store_agent(connection: Connection) -> Agent:
    agent = an_agent()
    await agents.create(connection, agent, [])
    return agent


async def store(connection: Connection, conversation: Conversation, **of_head: Any) -> Conversation:
    await conversations.create(connection, conversation)
    await heads.create(connection, Head(conversation_id=conversation.id, **of_head))
    return conversation


async def stored_conversation(database: Database, **of_head: Any) -> Conversation:
    """With an agent of its own, and a log that is empty."""
    async with database.write() as connection:
        agent = await store_agent(connection)
        return await store(connection, a_conversation(agent.id), **of_head)
