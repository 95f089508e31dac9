"""Sending messages: one transaction that stores them and queues a run, or refuses and leaves nothing behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from db import conversations, messages, runs
from db.heads import Head
from runs.close import cancelled, end_runs
from runs.commands.approvals import deny_pending, refuse_while_pending
from runs.commands.idempotency import run_made_before
from runs.commands.queueing import new_run, queue
from runs.engine import Engine
from runs.heads import locked_with_agent
from streams.log import Transaction
from vocabulary.conversations import Agent, Conversation
from vocabulary.events import MessageCompleted, MessageStarted
from vocabulary.ids import Noun, new_id
from vocabulary.messages import ContentPart, InputRole, Message, MessageStatus, MessageType, SystemBody, TextPart, UserBody
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import BusyPolicy, ClientTool, Run, RunKind, RunRequest, RunStatus

_INTERRUPTED = "Something else was said instead of an answer."


class ConversationBusy(Exception):
    """A run is active or queued, and the request said REJECT."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"The conversation is busy with run {run_id!r}.")
        self.run_id = run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A SYSTEM message holds text parts only."""

    role: InputRole
    content: tuple[ContentPart, ...]
    client_message_id: str | None = None
    sender: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """`body_hash` tells a retry under the same key from another request."""

    conversation_id: str
    messages: tuple[NewMessage, ...]
    idempotency_key: str | None = None
    body_hash: str | None = None
    group_id: str | None = None
    when_busy: BusyPolicy = BusyPolicy.ENQUEUE
    max_steps: int = 50
    override_model: str | None = None
    override_model_settings: ModelSettings = field(default_factory=ModelSettings)
    override_system: str | None = None
    client_tools: tuple[ClientTool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """`messages`: the input's, as they are now. `applied_through_sequence`: the last number of the send itself."""

    run: Run
    messages: tuple[Message, ...]
    applied_through_sequence: int
    deduplicated: bool


async def send(engine: Engine, tenant: str, request: Send) -> Sent:
    """Durable when it returns. Idle: the messages enter history and the run is next. Busy: both wait in line, or the send is refused,
    or it ends what runs and goes before what waits.

    Raises ConversationNotFound, ModelNotFound, ConversationBusy, PendingApproval, IdempotencyConflict.
    """
    async with engine.log.transaction() as transaction:
        head, conversation, agent = await locked_with_agent(transaction, tenant, request.conversation_id)
        if known := await _sent_before(transaction, request):
            return known
        model = engine.models.resolve(request.override_model or conversation.model or agent.model).handle
        if request.when_busy is BusyPolicy.INTERRUPT:
            await deny_pending(transaction, head, conversation, _INTERRUPTED)
        else:
            await refuse_while_pending(transaction.connection, conversation)
        busy_with = (await runs.live(transaction.connection, [conversation.id])).get(conversation.id)
        if busy_with and request.when_busy is BusyPolicy.REJECT:
            raise ConversationBusy(busy_with[0].id)
        queued = bool(busy_with) and request.when_busy is not BusyPolicy.INTERRUPT
        if busy_with and not queued:
            await _interrupt(engine, transaction, head, busy_with)
        new = _run(request, conversation, agent, model, transaction.now)
        run, stored = await _store(engine, transaction, head, new, request, queued=queued)
        return Sent(run=run, messages=stored, applied_through_sequence=run.applied_through_sequence, deduplicated=False)


async def _interrupt(engine: Engine, transaction: Transaction, head: Head, live: Sequence[Run]) -> None:
    """What runs, or would have run next with its input in history already, is cancelled. The queue stays as it is."""
    active = [run for run in live if run.status is RunStatus.RUNNING or run.goes_first]
    if active:
        await end_runs(engine, transaction, head, active, cancelled())
        await conversations.touch(transaction.connection, [head.conversation_id], {"last_run_completed_at": transaction.now})


async def _sent_before(transaction: Transaction, request: Send) -> Sent | None:
    run = await run_made_before(transaction, request.conversation_id, request.idempotency_key, request.body_hash)
    if run is None:
        return None
    inputs = [message for message in await messages.of_run(transaction.connection, run.id) if message.step_id is None]
    return Sent(
        run=run,
        messages=tuple(inputs[: len(request.messages)]),
        applied_through_sequence=run.applied_through_sequence,
        deduplicated=True,
    )


def _run(request: Send, conversation: Conversation, agent: Agent, model: str, now: datetime) -> Run:
    settings = request.override_model_settings.over((conversation.model_settings or ModelSettings()).over(agent.model_settings))
    asked = RunRequest(
        max_steps=request.max_steps,
        settings=settings,
        override_system=request.override_system,
        client_tools=request.client_tools,
    )
    return new_run(
        conversation,
        RunKind.RESPONSE,
        model,
        asked,
        now=now,
        group_id=request.group_id,
        idempotency_key=request.idempotency_key,
        body_hash=request.body_hash,
    )


async def _store(
    engine: Engine, transaction: Transaction, head: Head, run: Run, request: Send, *, queued: bool
) -> tuple[Run, tuple[Message, ...]]:
    """The numbers of a send: one per message, then those of its run."""
    stored = tuple(_message(transaction, head, run, new, queued=queued) for new in request.messages)
    announcement = MessageStarted if queued else MessageCompleted
    for message in stored:
        transaction.append(head, message.sequence, announcement(message), run_id=run.id)
    times = {"last_message_at": transaction.now, "updated_at": transaction.now}
    run = await queue(engine, transaction, head, replace(run, goes_first=not queued), times, first_sequence=stored[0].sequence)
    await messages.create(transaction.connection, stored)
    return run, stored


def _message(transaction: Transaction, head: Head, run: Run, new: NewMessage, *, queued: bool) -> Message:
    text = "".join(part.text for part in new.content if isinstance(part, TextPart))
    is_user = new.role is InputRole.USER
    return Message(
        id=new_id(Noun.MESSAGE),
        conversation_id=head.conversation_id,
        type=MessageType.USER if is_user else MessageType.SYSTEM,
        status=MessageStatus.QUEUED if queued else MessageStatus.COMPLETED,
        ordinal=None if queued else head.take_ordinal(),
        text=text,
        body=UserBody(content=new.content, client_message_id=new.client_message_id, sender=new.sender)
        if is_user
        else SystemBody(client_message_id=new.client_message_id),
        in_tail=True,
        in_context=not queued,
        group_id=run.group_id,
        run_id=run.id,
        step_id=None,
        sequence=head.take_sequence(),
        created_at=transaction.now,
    )
