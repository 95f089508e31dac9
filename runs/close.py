"""Closing a run from outside its own task: for cancel, failure, takeover and hand-over; every way to end one comes through here.

In the caller's transaction, under the head's lock: raise the fence, so that whoever wrote for the run can write no more; close its
open messages from what the log holds; answer the tool calls that were left without a return; say how it ended. After the commit its
worker is told, so that it stops at once; it could write nothing anyway.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from db import messages, runs
from db.heads import Head
from runs import state
from runs.engine import Engine
from runs.heads import announce_conversation
from runs.measured import note_end
from runs.sizes import roughly
from runs.tools.registry import error_return
from runs.writing.records import calls_of, change_calls, end_messages, write_message, write_returns
from streams.log import Transaction
from vocabulary.events import MessageChanged, RunChanged, ToolCallChanged
from vocabulary.messages import (
    ErrorBody,
    Message,
    MessageStatus,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturnBody,
)
from vocabulary.runs import Run, RunError, RunStatus, Step, StopReason, Usage

_NEVER_RUN = "The tool was not run."
_SAID_BY_MODEL = frozenset({MessageType.REASONING, MessageType.ASSISTANT, MessageType.TOOL_CALL})
_OUTCOME_UNKNOWN = "The tool was started, but its outcome is unknown."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends. `usage`: of the call that was cut, on top of what the run has; None: nobody was told, so it is estimated.
    `time_to_first_token_ms`: unless the run has one. `by_its_worker`: who need not be told.
    """

    status: RunStatus
    stop_reason: StopReason
    error: RunError | None = None
    usage: Usage | None = None
    time_to_first_token_ms: int | None = None
    by_its_worker: bool = False


def cancelled() -> Ending:
    return Ending(status=RunStatus.CANCELLED, stop_reason=StopReason.CANCELLED)


async def close_run(engine: Engine, transaction: Transaction, head: Head, run: Run, ending: Ending) -> Run:
    """Ends a run for good, whatever state it was left in, and lets the next one start."""
    [ended] = await close_runs(engine, transaction, head, [run], ending)
    return ended


async def close_runs(engine: Engine, transaction: Transaction, head: Head, closing: Sequence[Run], ending: Ending) -> list[Run]:
    """As `close_run`, for several live runs of one conversation, which tells of it once."""
    ended = await end_runs(engine, transaction, head, closing, ending)
    times = {"last_run_completed_at": transaction.now, "updated_at": transaction.now}
    if any(_leaves_messages(run) for run in closing):
        times["last_message_at"] = transaction.now
    await announce_conversation(transaction, head, head.take_sequence(), times)
    await engine.dispatcher.defer(transaction, head.conversation_id)
    return ended


def _leaves_messages(run: Run) -> bool:
    """What is still in line has nothing to say, unless it was to go on with calls: those are answered."""
    return run.status is RunStatus.RUNNING or run.request.answers is not None


async def end_runs(engine: Engine, transaction: Transaction, head: Head, closing: Sequence[Run], ending: Ending) -> list[Run]:
    """The runs' own part of it; for who has more to say of the conversation in this transaction, and says then who is next.

    The input of a run that was still in line never enters history: it was never said to the model, and nothing answers it. It becomes
    INTERRUPTED without an ordinal and stays, whole, in `Run.messages`. What had entered history stays there, and in context.
    """
    written = await messages.of_runs(transaction.connection, [run.id for run in closing])
    await _take_out_of_line(transaction, head, [message for run in closing for message in written[run.id]])
    ended = [await _end(transaction, head, run, ending, written[run.id]) for run in closing]
    await runs.save(transaction.connection, ended)
    for run in ended:
        note_end(engine.metrics, transaction, run)
        if run.worker_id is not None and not ending.by_its_worker:
            transaction.after_commit.append(partial(engine.log.bus.signal, run.worker_id, run.id))
    return ended


async def _end(transaction: Transaction, head: Head, run: Run, ending: Ending, written: Sequence[Message]) -> Run:
    usage = await _account(transaction, run, ending, written)
    await _close(transaction, head, run, written)
    if ending.error is not None:
        told = ErrorBody(error=ending.error)
        await write_message(
            transaction,
            head,
            MessageType.ERROR,
            told,
            text=ending.error.message,
            run_id=run.id,
            group_id=run.group_id,
            step_id=None,
            in_tail=False,
            told_by=run.id,
        )
    ended = replace(
        run,
        status=state.moved(state.RUN, run.status, ending.status),
        stop_reason=ending.stop_reason,
        error=ending.error,
        usage=run.usage + usage,
        time_to_first_token_ms=_first_known(run.time_to_first_token_ms, ending.time_to_first_token_ms, _until_first_word(run, written)),
        sequence=head.take_sequence(),
        completed_at=transaction.now,
    )
    transaction.append(head, ended.sequence, RunChanged(ended, ended.status, ended.stop_reason), run_id=run.id)
    if head.active_run_id == run.id:
        head.active_run_id = None
        head.fence += 1
    return ended


def _first_known(*known: int | None) -> int | None:
    return next((milliseconds for milliseconds in known if milliseconds is not None), None)


def _until_first_word(run: Run, written: Sequence[Message]) -> int | None:
    """From the log, because whoever ends a run from outside cannot ask its worker. In milliseconds."""
    said = [message.created_at for message in written if message.type in _SAID_BY_MODEL and _length(message)]
    if run.started_at is None or not said:
        return None
    return max(0, round((min(said) - run.started_at).total_seconds() * 1000))


async def _account(transaction: Transaction, run: Run, ending: Ending | None, written: Sequence[Message]) -> Usage:
    """Of the call that was cut, if one was; kept with its step, so that a run's usage is the sum of its steps'. No ending: it goes on."""
    told, stop_reason = (None, None) if ending is None else (ending.usage, ending.stop_reason)
    steps = await runs.steps_of(transaction.connection, [run.id]) if run.status is RunStatus.RUNNING else []
    if not steps or steps[-1].completed_at is not None:
        return told or Usage()
    step = steps[-1]
    if step.usage.requests > 0:  # a call that was over is on the run's account already
        usage = told or Usage()
        if ending is not None and ending.status is RunStatus.COMPLETED:
            stop_reason = step.stop_reason  # it was abandoned: what the run ends with is the step's before it
    elif told is None:
        usage = Usage(requests=1) + await _estimated(transaction, step, written)
    elif told.is_unreported and any(message.step_id == step.id and _length(message) for message in written):
        usage = told + await _estimated(transaction, step, written)
    else:
        usage = told
    await runs.save_steps(transaction.connection, [replace(step, usage=step.usage + usage, stop_reason=stop_reason)])
    return usage


async def _estimated(transaction: Transaction, step: Step, written: Sequence[Message]) -> Usage:
    """From what the log holds: a provider bills what it was shown and what it had said, but tells so only at the end."""
    shown = await messages.context_characters(transaction.connection, step.conversation_id, before_step=step.id)
    said = sum(_length(message) for message in written if message.step_id == step.id)
    return Usage(input_tokens=roughly(shown), output_tokens=roughly(said), estimated=True)


def _length(message: Message) -> int:
    calls = message.body.tool_calls if isinstance(message.body, ToolCallBody) else ()
    return len(message.text) + sum(len(call.name) + len(call.arguments_text) for call in calls)


async def _take_out_of_line(transaction: Transaction, head: Head, written: Sequence[Message]) -> None:
    in_line = [message for message in written if message.status is MessageStatus.QUEUED]
    out = [(message, replace(message, status=MessageStatus.INTERRUPTED, in_tail=False)) for message in in_line]
    await end_messages(transaction, head, out)


async def abandon_step(transaction: Transaction, head: Head, run: Run) -> Run:
    """Closes what a run left open that goes on: its unfinished step will be done anew, so nothing of it stays in context. Answers the run
    with what its call is held to have used, and with when the first word came that was shown; it is not saved yet.
    """
    written = await messages.of_run(transaction.connection, run.id)
    usage = await _account(transaction, run, None, written)
    called = await _close(transaction, head, run, written, abandoned=True)
    await _complete_steps(transaction, run, called)
    await _leave_out(transaction, head, run, [message for message in written if message.step_id not in called])
    first_word = _first_known(run.time_to_first_token_ms, _until_first_word(run, written))
    return replace(run, usage=run.usage + usage, time_to_first_token_ms=first_word)


async def _close(transaction: Transaction, head: Head, run: Run, written: Sequence[Message], *, abandoned: bool = False) -> set[str | None]:
    """Answers the steps whose calls were complete."""
    for message in written:
        if message.status is MessageStatus.IN_PROGRESS:
            await _interrupt(transaction, head, message, abandoned=abandoned)
    answered = {item.tool_call_id for message in written if isinstance(message.body, ToolReturnBody) for item in message.body.tool_returns}
    called: set[str | None] = set()
    for message in written:
        if message.type is MessageType.TOOL_CALL and message.status is MessageStatus.COMPLETED:
            called.add(message.step_id)
            await _answer_calls(transaction, head, run, message, answered)
    await _close_what_waited(transaction, head, run, answered, goes_on=abandoned)
    return called


def _stays(message: Message) -> bool:
    """Words that were shown stay in context; reasoning that was cut and half-written calls do not."""
    return message.type is MessageType.ASSISTANT and bool(message.text)


async def _interrupt(transaction: Transaction, head: Head, message: Message, *, abandoned: bool) -> None:
    calls = message.body.tool_calls if isinstance(message.body, ToolCallBody) else ()
    cut = tuple(replace(call, state=state.moved(state.TOOL_CALL, call.state, ToolCallState.INTERRUPTED)) for call in calls)
    for call in cut:
        transaction.append(head, head.take_sequence(), ToolCallChanged(message.id, message.type, call), run_id=message.run_id)
    stays = _stays(message) and not abandoned
    body = ToolCallBody(tool_calls=cut) if calls else message.body
    closed = replace(message, status=MessageStatus.INTERRUPTED, body=body, in_tail=stays, in_context=stays)
    await end_messages(transaction, head, [(message, closed)])


async def _close_what_waited(transaction: Transaction, head: Head, run: Run, answered: set[str], *, goes_on: bool) -> None:
    """The calls of an earlier run that this one was to go on with. Whoever takes it over runs those that were not begun."""
    message = None if run.request.answers is None else await messages.get(transaction.connection, run.request.answers)
    if message is None:
        return
    if goes_on:
        begun = [call for call in calls_of(message) if call.state is ToolCallState.RUNNING]
        await change_calls(transaction, head, message, [_cut(call) for call in begun], told_by=run.id)
    else:
        await _answer_calls(transaction, head, run, message, answered)


async def _answer_calls(transaction: Transaction, head: Head, run: Run, message: Message, answered: set[str]) -> None:
    """A call that may have run is never run again behind the model's back: it is told that the outcome is unknown."""
    if all(call.id in answered for call in calls_of(message)):
        return
    cut = [_cut(call) for call in calls_of(message) if call.returned is None]
    message = await change_calls(transaction, head, message, cut, told_by=run.id)
    await write_returns(transaction, head, message, run_id=run.id, told_by=run.id)


def _cut(call: ToolCall) -> ToolCall:
    returned = error_return(call, _OUTCOME_UNKNOWN if call.state is ToolCallState.RUNNING else _NEVER_RUN)
    return replace(call, state=ToolCallState.INTERRUPTED, returned=returned)


async def _complete_steps(transaction: Transaction, run: Run, called: Collection[str | None]) -> None:
    """With its calls answered a step is done: it counts, and is not done again."""
    steps = await runs.steps_of(transaction.connection, [run.id])
    done = [step for step in steps if step.completed_at is None and step.id in called]
    completed = [replace(step, stop_reason=StopReason.END_TURN, completed_at=transaction.now) for step in done]
    await runs.save_steps(transaction.connection, completed)


async def _leave_out(transaction: Transaction, head: Head, run: Run, written: Sequence[Message]) -> None:
    """Takes the finished messages of the step that was running out of the context: the step is done again from its start."""
    steps = await runs.steps_of(transaction.connection, [run.id])
    unfinished = {step.id for step in steps if step.completed_at is None}
    said = [m for m in written if m.step_id in unfinished and m.status is MessageStatus.COMPLETED and m.in_tail]
    changed = [replace(message, in_tail=False, in_context=False, sequence=head.take_sequence()) for message in said]
    await messages.change(transaction.connection, changed)
    for message in changed:
        transaction.append(head, message.sequence, MessageChanged(message), run_id=run.id)
