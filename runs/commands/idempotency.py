"""What an earlier request under the same idempotency key has made. Asked under the lock that serialises the key's scope."""

from db import conversations, runs
from runs.heads import ConversationNotFound
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.runs import Run


class IdempotencyConflict(Exception):
    """The key was used before, for another request."""

    def __init__(self, key: str) -> None:
        super().__init__(f"The idempotency key {key!r} was used before with a different body.")
        self.key = key


async def run_made_before(transaction: Transaction, conversation_id: str, key: str | None, body_hash: str | None) -> Run | None:
    """Raises IdempotencyConflict."""
    run = await runs.by_key(transaction.connection, conversation_id, key) if key else None
    if run is not None and run.body_hash != body_hash:
        raise IdempotencyConflict(key or "")
    return run


async def conversation_made_before(transaction: Transaction, scope: str, key: str | None, body_hash: str | None) -> Conversation | None:
    """`scope`: the id of the agent that it was created for, or of the conversation that it was forked from.

    Raises IdempotencyConflict; ConversationNotFound when it was deleted since.
    """
    stored = await conversations.stored(transaction.connection, scope, key) if key else None
    if stored is None:
        return None
    if stored.body_hash != body_hash:
        raise IdempotencyConflict(key or "")
    found = await conversations.read(transaction.connection, [stored.conversation_id])
    if not found:
        raise ConversationNotFound(stored.conversation_id)
    return found[stored.conversation_id]
