"""Changing a conversation: its title, its model, and the system message that its agent and its memory are compiled into."""

from dataclasses import dataclass, field, replace

from db import conversations, messages
from runs.engine import Engine
from runs.heads import ConversationNotFound, announce_conversation, locked
from runs.writing.compiled import prompts
from vocabulary.changes import KEPT, Fields, Kept, changed
from vocabulary.conversations import Conversation
from vocabulary.events import MessageChanged
from vocabulary.model_settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationChange:
    """`model_settings`: those that change; None: it has none of its own any more."""

    conversation_id: str
    summary: str | Kept | None = KEPT
    model: str | Kept | None = KEPT
    model_settings: Fields | None = field(default_factory=dict[str, object])


async def update_conversation(engine: Engine, tenant: str, change: ConversationChange) -> Conversation:
    """Raises ConversationNotFound, ModelNotFound; nothing is changed then. Runs that were asked for before keep what they were given."""
    async with engine.log.transaction() as transaction:
        head, before = await locked(transaction, tenant, change.conversation_id)
        if isinstance(change.model, str):
            engine.models.resolve(change.model)
        after = changed(before, summary=change.summary, model=change.model, model_settings=_settings(before, change))
        if after == before:
            return before
        await conversations.save(transaction.connection, after)
        await announce_conversation(transaction, head, head.take_sequence(), {"updated_at": transaction.now})
        stored = (await conversations.read(transaction.connection, [before.id]))[before.id]
        return replace(stored, head_sequence=head.head_sequence)  # the head is saved last


def _settings(before: Conversation, change: ConversationChange) -> ModelSettings | Kept | None:
    if change.model_settings is None:
        return None
    if not change.model_settings:
        return KEPT
    return replace(before.model_settings or ModelSettings(), **change.model_settings)


async def compiled(engine: Engine, tenant: str, conversation_id: str) -> str:
    """The system prompt as it would be compiled now. Raises ConversationNotFound."""
    async with engine.database.read() as connection:
        found = await conversations.by_ids(connection, tenant, [conversation_id])
        if not found:
            raise ConversationNotFound(conversation_id)
        return (await prompts(connection, [conversation_id]))[conversation_id]


async def recompile(engine: Engine, tenant: str, conversation_id: str) -> str:
    """Puts the prompt as it is now into the system message, in its place. Raises ConversationNotFound.

    A run that has begun goes on with the prompt it began with, so that its provider's cache stays warm; the next one has the new.
    """
    async with engine.log.transaction() as transaction:
        head, conversation = await locked(transaction, tenant, conversation_id)
        text = (await prompts(transaction.connection, [conversation.id]))[conversation.id]
        [system] = await messages.by_ids(transaction.connection, tenant, [conversation.system_message_id or ""])
        if system.text != text:
            system = replace(system, text=text, sequence=head.take_sequence())
            await messages.change(transaction.connection, [system])
            transaction.append(head, system.sequence, MessageChanged(system))
        return text
