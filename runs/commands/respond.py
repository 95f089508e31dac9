"""Answering tool calls that wait: one transaction that decides all of them and queues the run that goes on, before the queue."""

from dataclasses import dataclass, replace
from datetime import datetime

from db import conversations, messages, runs
from db.heads import Head
from llm.registry import ModelNotFound
from runs.commands.approvals import Approve, Decision, Deny, Pending, Result, decide, deny_pending, pending_of
from runs.commands.idempotency import run_made_before
from runs.commands.queueing import queue
from runs.engine import Engine
from runs.heads import announce_conversation, locked
from runs.steps.calls import most_characters
from runs.tools.registry import clipped
from runs.writing.records import calls_of
from streams.log import Transaction
from vocabulary.ids import Noun, new_id
from vocabulary.messages import Message, MessageType, ToolCall, ToolSource
from vocabulary.runs import Run, RunStatus, Usage

_EXPIRED = "Nobody answered in time."


class NoPendingToolCalls(Exception):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"No tool call of conversation {conversation_id!r} waits for an answer.")
        self.conversation_id = conversation_id


class ToolCallMismatch(Exception):
    """The calls that were answered are not those that wait."""

    def __init__(self, missing: tuple[str, ...], unknown: tuple[str, ...]) -> None:
        super().__init__("The answers must be to exactly the tool calls that wait.")
        self.missing = missing
        self.unknown = unknown


class WrongDecision(Exception):
    """A call of the server's was given a result, or one of the client's was only approved. `place`: of the answer."""

    def __init__(self, place: int, decision: str, tool: str) -> None:
        who = "the client runs it, and must give its result" if decision == "approve" else "the server runs it once it is approved"
        super().__init__(f"{decision} does not fit the tool {tool!r}: {who}.")
        self.place = place
        self.decision = decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    tool_call_id: str
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Respond:
    """At most one answer for a call. `body_hash` tells a retry under the same key from another request."""

    conversation_id: str
    answers: tuple[Answer, ...]
    idempotency_key: str | None = None
    body_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Responded:
    """`run`: goes on. `messages`: the APPROVAL_RESPONSE. `applied_through_sequence`: the last number of the answer itself."""

    run: Run
    messages: tuple[Message, ...]
    applied_through_sequence: int
    deduplicated: bool


async def respond(engine: Engine, tenant: str, request: Respond) -> Responded:
    """Durable when it returns. Of two who answer the same calls one comes first, and the other finds nothing that waits for it.

    Raises ConversationNotFound, NoPendingToolCalls, ToolCallMismatch, WrongDecision, IdempotencyConflict, ModelNotFound.
    """
    async with engine.log.transaction() as transaction:
        head, conversation = await locked(transaction, tenant, request.conversation_id)
        if known := await _responded_before(transaction, request):
            return known
        pending = await pending_of(transaction.connection, conversation)
        if pending is None:
            raise NoPendingToolCalls(conversation.id)
        return await _go_on(engine, transaction, head, pending, _matched(pending, request.answers), request=request)


async def expire(engine: Engine, conversation_id: str, *, before: datetime) -> None:
    """Denies what has waited since before then, and lets a run tell the model so, unless its model is no longer there.

    Does nothing when somebody has answered meanwhile.
    """
    async with engine.log.transaction() as transaction:
        head = await transaction.lock(conversation_id)
        conversation = (await conversations.read(transaction.connection, [conversation_id])).get(conversation_id)
        pending = await pending_of(transaction.connection, conversation) if conversation else None
        if head is None or conversation is None or pending is None or pending.request.created_at >= before:
            return
        try:
            await _go_on(engine, transaction, head, pending, {call.id: Deny(_EXPIRED) for call in pending.waiting})
        except ModelNotFound:
            await deny_pending(transaction, head, conversation, _EXPIRED)
            await announce_conversation(transaction, head, head.take_sequence(), {"updated_at": transaction.now})
            await engine.dispatcher.defer(transaction, conversation_id)


async def _responded_before(transaction: Transaction, request: Respond) -> Responded | None:
    run = await run_made_before(transaction, request.conversation_id, request.idempotency_key, request.body_hash)
    if run is None:
        return None
    written = await messages.of_run(transaction.connection, run.id)
    responses = tuple(message for message in written if message.type is MessageType.APPROVAL_RESPONSE)
    return Responded(run=run, messages=responses, applied_through_sequence=run.applied_through_sequence, deduplicated=True)


def _matched(pending: Pending, answers: tuple[Answer, ...]) -> dict[str, Decision]:
    waiting = {call.id: call for call in pending.waiting}
    given = {answer.tool_call_id: answer.decision for answer in answers}
    if waiting.keys() != given.keys():
        raise ToolCallMismatch(tuple(id_ for id_ in waiting if id_ not in given), tuple(id_ for id_ in given if id_ not in waiting))
    for place, answer in enumerate(answers):
        _check(place, answer.decision, waiting[answer.tool_call_id])
    return given


def _check(place: int, decision: Decision, call: ToolCall) -> None:
    is_client = call.source is ToolSource.CLIENT
    if is_client and isinstance(decision, Approve):
        raise WrongDecision(place, "approve", call.name)
    if not is_client and isinstance(decision, Result):
        raise WrongDecision(place, "result", call.name)


async def _go_on(
    engine: Engine,
    transaction: Transaction,
    head: Head,
    pending: Pending,
    decisions: dict[str, Decision],
    *,
    request: Respond | None = None,
) -> Responded:
    """The numbers of an answer: one per call, then the response's, then those of its run.

    Raises ModelNotFound before anything is written.
    """
    asking = await runs.get(transaction.connection, pending.request.run_id or "")
    assert asking is not None, "runs are never removed while their messages are there"
    engine.models.resolve(asking.model)
    window = engine.models.window(asking.model, asking.request.settings)
    most = most_characters(window, len(calls_of(pending.calls)))
    first, run_id = head.head_sequence + 1, new_id(Noun.RUN)
    clipped_decisions = {call_id: _clipped(decision, most) for call_id, decision in decisions.items()}
    calls, response = await decide(transaction, head, pending, clipped_decisions, run_id=run_id, told_by=run_id)
    steps = await runs.steps_of(transaction.connection, [asking.id])
    run = replace(
        _following(asking, calls, steps_done=sum(step.counts for step in steps)),
        id=run_id,
        idempotency_key=None if request is None else request.idempotency_key,
        body_hash=request.body_hash if request is not None and request.idempotency_key else None,
        created_at=transaction.now,
    )
    times = {"last_message_at": transaction.now, "updated_at": transaction.now}
    run = await queue(engine, transaction, head, run, times, first_sequence=first)
    return Responded(run=run, messages=(response,), applied_through_sequence=run.applied_through_sequence, deduplicated=False)


def _clipped(decision: Decision, most: int) -> Decision:
    return replace(decision, output=clipped(decision.output, most)) if isinstance(decision, Result) else decision


def _following(asking: Run, calls: Message, *, steps_done: int) -> Run:
    """A new run with what was asked of the one before it, as far as that has not been done."""
    return replace(
        asking,
        status=RunStatus.QUEUED,
        goes_first=True,
        stop_reason=None,
        request=replace(asking.request, max_steps=max(0, asking.request.max_steps - steps_done), answers=calls.id),
        usage=Usage(),
        worker_id=None,
        attempt=1,
        started_at=None,
        completed_at=None,
        time_to_first_token_ms=None,
    )
