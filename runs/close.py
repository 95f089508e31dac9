"""Closing a run from outside its own task: for failure, takeover and hand-over now; every later way to end one comes through here.

In the caller's transaction, under the head's lock: raise the fence, so that whoever wrote for the run can write no more; close its
open messages from what the log holds; answer the tool calls that were left without a return; say how it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from db import messages, runs
from db.heads import Head
from runs import state
from runs.engine import Engine
from runs.records import calls_of, change_calls, write_message, write_returns
from runs.send import announce_conversation
from runs.tools import error_return
from streams.log import Transaction
from vocabulary.events import MessageChanged, MessageCompleted, RunChanged, ToolCallChanged
from vocabulary.messages import (
    ErrorBody,
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturnBody,
)
from vocabulary.runs import Run, RunError, RunStatus, StopReason, Usage

_NEVER_RUN = "The tool was not run."
_OUTCOME_UNKNOWN = "The tool was started, but its outcome is unknown."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends. `usage`: of the call that was cut, on top of what the run has; `time_to_first_token_ms`: unless the run has one."""

    status: RunStatus
    stop_reason: StopReason
    error: RunError | None = None
    usage: Usage = field(default_factory=Usage)
    time_to_first_token_ms: int | None = None


async def close_run(engine: Engine, transaction: Transaction, head: Head, run: Run, ending: Ending) -> Run:
    """Ends a run for good, whatever state it was left in, and lets the next one start."""
    await close_messages(transaction, head, run, abandon_step=False)
    if ending.error is not None:
        told = ErrorBody(error=ending.error)
        await _write(transaction, head, run, MessageType.ERROR, told, text=ending.error.message, step_id=None, in_tail=False)
    sequence = head.take_sequence()
    ended = replace(
        run,
        status=state.moved(state.RUN, run.status, ending.status),
        stop_reason=ending.stop_reason,
        error=ending.error,
        usage=run.usage + ending.usage,
        time_to_first_token_ms=run.time_to_first_token_ms or ending.time_to_first_token_ms,
        sequence=sequence,
        completed_at=transaction.now,
    )
    await runs.save(transaction.connection, [ended])
    transaction.append(head, sequence, RunChanged(ended, ended.status, ended.stop_reason), run_id=run.id)
    if head.active_run_id == run.id:
        head.active_run_id = None
        head.fence += 1
    times = {"last_message_at": transaction.now, "last_run_completed_at": transaction.now, "updated_at": transaction.now}
    await announce_conversation(transaction, head, head.take_sequence(), times)
    await engine.dispatcher.defer(transaction, head.conversation_id)
    return ended


async def close_messages(transaction: Transaction, head: Head, run: Run, *, abandon_step: bool) -> None:
    """Closes what the run left open. `abandon_step`: its unfinished step will be done anew, so nothing of it stays in context."""
    written = await messages.of_run(transaction.connection, run.id)
    for message in written:
        if message.status is MessageStatus.IN_PROGRESS:
            await _interrupt(transaction, head, message, abandoned=abandon_step)
    answered = {item.tool_call_id for message in written if isinstance(message.body, ToolReturnBody) for item in message.body.tool_returns}
    called: set[str | None] = set()
    for message in written:
        if message.type is MessageType.TOOL_CALL and message.status is MessageStatus.COMPLETED:
            called.add(message.step_id)
            await _answer_calls(transaction, head, run, message, answered)
    await _close_what_waited(transaction, head, run, answered, goes_on=abandon_step)
    if abandon_step:
        await _leave_out(transaction, head, run, [message for message in written if message.step_id not in called])


def _stays(message: Message) -> bool:
    """Words that were shown stay in context; reasoning that was cut and half-written calls do not."""
    return message.type is MessageType.ASSISTANT and bool(message.text)


async def _interrupt(transaction: Transaction, head: Head, message: Message, *, abandoned: bool) -> None:
    calls = message.body.tool_calls if isinstance(message.body, ToolCallBody) else ()
    cut = tuple(replace(call, state=state.moved(state.TOOL_CALL, call.state, ToolCallState.INTERRUPTED)) for call in calls)
    for call in cut:
        transaction.append(head, head.take_sequence(), ToolCallChanged(message.id, message.type, call), run_id=message.run_id)
    stays = _stays(message) and not abandoned
    closed = replace(
        message,
        status=state.moved(state.MESSAGE, message.status, MessageStatus.INTERRUPTED),
        body=ToolCallBody(tool_calls=cut) if calls else message.body,
        in_tail=stays,
        in_context=stays,
        sequence=head.take_sequence(),
    )
    await messages.close(transaction.connection, [closed], now=transaction.now)
    transaction.append(head, closed.sequence, MessageCompleted(closed), run_id=message.run_id)


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
    return replace(call, state=state.moved(state.TOOL_CALL, call.state, ToolCallState.INTERRUPTED), returned=returned)


async def _leave_out(transaction: Transaction, head: Head, run: Run, written: Sequence[Message]) -> None:
    """Takes the finished messages of the step that was running out of the context: the step is done again from its start."""
    steps = await runs.steps_of(transaction.connection, [run.id])
    unfinished = {step.id for step in steps if step.completed_at is None}
    for message in written:
        if message.step_id in unfinished and message.status is MessageStatus.COMPLETED and message.in_tail:
            changed = replace(message, in_tail=False, in_context=False, sequence=head.take_sequence())
            await messages.change(transaction.connection, [changed])
            transaction.append(head, changed.sequence, MessageChanged(changed), run_id=run.id)


async def _write(
    transaction: Transaction,
    head: Head,
    run: Run,
    kind: MessageType,
    body: MessageBody,
    *,
    text: str = "",
    step_id: str | None,
    in_tail: bool,
) -> None:
    """A message that comes whole."""
    await write_message(
        transaction,
        head,
        kind,
        body,
        text=text,
        run_id=run.id,
        group_id=run.group_id,
        step_id=step_id,
        in_tail=in_tail,
        told_by=run.id,
    )
