"""Asking for a compaction: one transaction that queues a run of that kind, or refuses and leaves nothing behind."""

from dataclasses import dataclass, field

from db import messages, runs
from runs.commands.idempotency import run_made_before
from runs.commands.queueing import new_run, queue
from runs.commands.send import ConversationBusy
from runs.compaction.cuts import is_fewer, legal
from runs.compaction.summariser import SELF, summariser
from runs.engine import Engine
from runs.heads import locked_with_agent
from streams.log import Transaction
from vocabulary.compaction import CompactionOverrides
from vocabulary.conversations import Conversation
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunKind, RunRequest


class NothingToCompact(Exception):
    """No summary could leave fewer messages than there are."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"The context of conversation {conversation_id!r} holds too little to be compacted.")
        self.conversation_id = conversation_id


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactRequest:
    """`settings` lie over the agent's, field by field. `body_hash` tells a retry under the same key from another request."""

    conversation_id: str
    settings: CompactionOverrides = field(default_factory=CompactionOverrides)
    idempotency_key: str | None = None
    body_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    run: Run
    deduplicated: bool


async def compact(engine: Engine, tenant: str, request: CompactRequest) -> Asked:
    """Durable when it returns.

    Raises ConversationNotFound, ModelNotFound, ConversationBusy, NothingToCompact, IdempotencyConflict.
    """
    async with engine.log.transaction() as transaction:
        head, conversation, agent = await locked_with_agent(transaction, tenant, request.conversation_id)
        if known := await run_made_before(transaction, conversation.id, request.idempotency_key, request.body_hash):
            return Asked(known, deduplicated=True)
        settings = request.settings.over(agent.compaction_settings)
        model = summariser(settings, conversation.model or agent.model, own=settings.mode in SELF)
        engine.models.resolve(model)
        if busy_with := (await runs.live(transaction.connection, [conversation.id])).get(conversation.id):
            raise ConversationBusy(busy_with[0].id)
        if not await _can_shrink(transaction, conversation):
            raise NothingToCompact(conversation.id)
        of_model = (conversation.model_settings or ModelSettings()).over(agent.model_settings)
        run = new_run(
            conversation,
            RunKind.COMPACTION,
            model,
            RunRequest(max_steps=1, settings=of_model, compaction=settings),
            now=transaction.now,
            idempotency_key=request.idempotency_key,
            body_hash=request.body_hash,
        )
        run = await queue(engine, transaction, head, run, {"updated_at": transaction.now})
        return Asked(run, deduplicated=False)


async def _can_shrink(transaction: Transaction, conversation: Conversation) -> bool:
    """Known without a model: how much is evicted is decided later, but whether anything can be depends on the messages alone."""
    first = {conversation.system_message_id, conversation.summary_message_id}
    context = await messages.context(transaction.connection, conversation)
    cuts = legal([message for message in context if message.id not in first])
    return bool(cuts) and is_fewer(cuts[-1], summarised=conversation.summary_message_id is not None)
