"""Deleting a conversation. Softly: its rows stay, but nobody is shown them any more, and nothing is written to its log after this.

All its runs are ended first; the last event of the log is a reset that completes every stream which still follows it.
"""

from db import blocks, conversations, runs
from db.heads import Head
from runs.close import cancelled, end_runs
from runs.engine import Engine
from runs.heads import locked
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.events import ResetReason, StreamReset
from vocabulary.lists import ListChangeKind


async def delete_conversation(engine: Engine, tenant: str, conversation_id: str) -> None:
    """Raises ConversationNotFound, also when it was deleted before."""
    async with engine.log.transaction() as transaction:
        head, conversation = await locked(transaction, tenant, conversation_id)
        await erase(engine, transaction, head, conversation)


async def erase(engine: Engine, transaction: Transaction, head: Head, conversation: Conversation) -> None:
    """Under the head's lock, of a conversation that is not deleted yet. Whoever works on it has lost its lease, and is told."""
    live = await runs.live(transaction.connection, [conversation.id])
    await end_runs(engine, transaction, head, live.get(conversation.id, []), cancelled())
    await blocks.remove_isolated(transaction.connection, conversation.id)
    await conversations.mark_deleted(transaction.connection, conversation.id, now=transaction.now)
    head.fence += 1
    sequence = head.take_sequence()
    transaction.append(head, sequence, StreamReset(ResetReason.CONVERSATION_DELETED, sequence))
    transaction.list_changed(head, conversation, ListChangeKind.DELETED)
