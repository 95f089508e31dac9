"""Asking for a compaction: one transaction that queues a run of that kind, or refuses and leaves nothing behind."""

from dataclasses import dataclass, field, replace

from db import messages, runs
from runs.compaction import summariser
from runs.conversations import IdempotencyConflict, announce_conversation, locked_with_agent
from runs.cuts import is_fewer, legal
from runs.engine import Engine
from runs.send import ConversationBusy
from runs.summariser import SELF
from streams.log import Transaction
from vocabulary.compaction import CompactionOverrides
from vocabulary.conversations import Conversation
from vocabulary.events import RunChanged
from vocabulary.ids import Noun, new_id
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunKind, RunRequest, RunStatus, Usage


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
        if request.idempotency_key and (known := await _asked_before(transaction, request)):
            return Asked(known, deduplicated=True)
        settings = request.settings.over(agent.compaction_settings)
        model = summariser(settings, conversation.model or agent.model, own=settings.mode in SELF)
        engine.models.resolve(model)
        if busy_with := (await runs.live(transaction.connection, [conversation.id])).get(conversation.id):
            raise ConversationBusy(busy_with[0].id)
        if not await _can_shrink(transaction, conversation):
            raise NothingToCompact(conversation.id)
        of_model = (conversation.model_settings or ModelSettings()).over(agent.model_settings)
        run = _run(transaction, request, conversation, model, RunRequest(max_steps=1, settings=of_model, compaction=settings))
        sequence, last = head.take_sequence(), head.take_sequence()
        run = replace(run, created_sequence=sequence, sequence=sequence, applied_through_sequence=last)
        await runs.create(transaction.connection, run)
        transaction.append(head, sequence, RunChanged(run, run.status, None), run_id=run.id)
        await announce_conversation(transaction, head, last, {"updated_at": transaction.now})
        await engine.dispatcher.defer(transaction, conversation.id)
        return Asked(run, deduplicated=False)


async def _asked_before(transaction: Transaction, request: CompactRequest) -> Run | None:
    run = await runs.by_key(transaction.connection, request.conversation_id, request.idempotency_key or "")
    if run is not None and run.body_hash != request.body_hash:
        raise IdempotencyConflict(request.idempotency_key or "")
    return run


async def _can_shrink(transaction: Transaction, conversation: Conversation) -> bool:
    """Known without a model: how much is evicted is decided later, but whether anything can be depends on the messages alone."""
    first = {conversation.system_message_id, conversation.summary_message_id}
    context = await messages.context(transaction.connection, conversation)
    cuts = legal([message for message in context if message.id not in first])
    return bool(cuts) and is_fewer(cuts[-1], summarised=conversation.summary_message_id is not None)


def _run(transaction: Transaction, request: CompactRequest, conversation: Conversation, model: str, asked: RunRequest) -> Run:
    return Run(
        id=new_id(Noun.RUN),
        tenant=conversation.tenant,
        conversation_id=conversation.id,
        kind=RunKind.COMPACTION,
        status=RunStatus.QUEUED,
        stop_reason=None,
        error=None,
        model=model,
        request=asked,
        usage=Usage(),
        group_id=None,
        idempotency_key=request.idempotency_key,
        body_hash=request.body_hash if request.idempotency_key else None,
        applied_through_sequence=0,
        created_sequence=0,
        sequence=0,
        worker_id=None,
        attempt=1,
        created_at=transaction.now,
        started_at=None,
        completed_at=None,
        time_to_first_token_ms=None,
    )
