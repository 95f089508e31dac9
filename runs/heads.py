"""A conversation in a transaction of its own: found under its head's lock, or refused; and announced, when it was changed there."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from db import agents, conversations
from db.heads import Head
from streams.log import Transaction
from vocabulary.conversations import Agent, Conversation
from vocabulary.events import ConversationChanged


class ConversationNotFound(Exception):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"There is no conversation {conversation_id!r}.")
        self.conversation_id = conversation_id


async def locked(transaction: Transaction, tenant: str, conversation_id: str) -> tuple[Head, Conversation]:
    """Raises ConversationNotFound. What was found under its lock stays so until the transaction ends."""
    head = await transaction.lock(conversation_id)
    found = await conversations.by_ids(transaction.connection, tenant, [conversation_id]) if head else []
    if head is None or not found:
        raise ConversationNotFound(conversation_id)
    return head, found[0]


async def locked_with_agent(transaction: Transaction, tenant: str, conversation_id: str) -> tuple[Head, Conversation, Agent]:
    """As `locked`, for who asks a model."""
    head, conversation = await locked(transaction, tenant, conversation_id)
    agent = await agents.get(transaction.connection, conversation.agent_id)
    assert agent is not None, "agents are never removed while they have conversations"
    return head, conversation, agent


async def announce_conversation(transaction: Transaction, head: Head, sequence: int, times: Mapping[str, datetime]) -> None:
    """Changes a conversation's times and tells it, to its followers and in lists, with the status that follows from its runs."""
    await conversations.touch(transaction.connection, [head.conversation_id], times)
    read = (await conversations.read(transaction.connection, [head.conversation_id]))[head.conversation_id]
    changed = replace(read, head_sequence=sequence)
    transaction.append(head, sequence, ConversationChanged(changed))
    transaction.list_changed(head, changed)
