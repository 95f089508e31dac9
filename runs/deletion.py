"""Deleting a conversation: nothing of it is found afterwards, and whoever follows it is told."""

from db import blocks, conversations, runs
from db.heads import Head
from runs.close import Ending, close_run
from runs.engine import Engine
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.events import ResetReason, StreamReset
from vocabulary.runs import RunStatus, StopReason

_CANCELLED = Ending(status=RunStatus.CANCELLED, stop_reason=StopReason.CANCELLED)


async def erase(engine: Engine, transaction: Transaction, head: Head, conversation: Conversation) -> None:
    """The caller holds the head, under which the conversation was found."""
    live = await runs.live(transaction.connection, [conversation.id])
    for run in live.get(conversation.id, []):
        await close_run(engine, transaction, head, run, _CANCELLED)
    await conversations.mark_deleted(transaction.connection, conversation.id, now=transaction.now)
    sequence = head.take_sequence()
    transaction.append(head, sequence, StreamReset(ResetReason.CONVERSATION_DELETED, sequence))
    head.list_version += 1
    await blocks.remove_isolated(transaction.connection, conversation.id)
