"""A context as it is before it is compacted: its messages, what they take, and the prompt as it would be compiled now."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from db import agents, conversations, messages, runs
from runs.engine import Engine
from runs.sizes import Sizes, measured
from runs.writing.compiled import prompts
from vocabulary.conversations import Agent, Conversation
from vocabulary.messages import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`compiled`: its system message. `system`: the prompt as it would be compiled now. `tail`: what is neither that nor a summary."""

    conversation: Conversation
    agent: Agent
    messages: Sequence[Message]
    sizes: Sizes
    system: str

    @property
    def compiled(self) -> Message | None:
        return next((message for message in self.messages if message.id == self.conversation.system_message_id), None)

    @property
    def summary(self) -> Message | None:
        return next((message for message in self.messages if message.id == self.conversation.summary_message_id), None)

    @property
    def tail(self) -> Sequence[Message]:
        return self.messages[(self.compiled is not None) + (self.summary is not None) :]


async def read_context(engine: Engine, conversation_id: str) -> Context:
    async with engine.database.read() as connection:
        conversation = (await conversations.read(connection, [conversation_id]))[conversation_id]
        agent = await agents.get(connection, conversation.agent_id)
        shown = await messages.context(connection, conversation)
        counted = (await runs.last_counted(connection, [conversation.id])).get(conversation.id)
        system = (await prompts(connection, [conversation.id]))[conversation.id]
    assert agent is not None, "agents are never removed while they have conversations"
    return Context(
        conversation=conversation,
        agent=agent,
        messages=shown,
        sizes=await asyncio.to_thread(measured, shown, counted),
        system=system,
    )
