"""Deleting a conversation. Softly: its rows stay, but nobody is shown them any more, and nothing is written to its log after this.

All its runs are ended first; the last event of the log is a reset that completes every stream which still follows it.
"""

from db import blocks, conversations, runs
from db.heads import Head
from runs.close import Ending, close_run
from runs.conversations import locked
from runs.engine import Engine
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.events import ResetReason, StreamReset
from vocabulary.runs import RunStatus, StopReason

_CANCELLED = Ending(status=RunStatus.CANCELLED, stop_reason=StopReason.CANCELLED)


async def delete_conversation(engine: Engine, tenant: str, conversation_id: str) -> None:
    """Raises ConversationNotFound, also when it was deleted before."""
    async with engine.log.transaction() as transaction:
        head, conversation = await locked(transaction, tenant, conversation_id)
        await erase(engine, transaction, head, conversation)


async def erase(engine: Engine, transaction: Transaction, head: Head, conversation: Conversation) -> None:
    """Under the head's lock, of a conversation that is not deleted yet. Its workers find that their leases are lost."""
    live = await runs.live(transaction.connection, [conversation.id])
    for run in live.get(conversation.id, []):
        await close_run(engine, transaction, head, run, _CANCELLED)
    await blocks.remove_isolated(transaction.connection, conversation.id)
    await conversations.mark_deleted(transaction.connection, conversation.id, now=transaction.now)
    head.fence += 1
    head.list_version += 1
    sequence = head.take_sequence()
    transaction.append(head, sequence, StreamReset(ResetReason.CONVERSATION_DELETED, sequence))
