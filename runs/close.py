"""Closing a run from outside its own task: for failure, takeover and hand-over now; every later way to end one comes through here.

In the caller's transaction, under the head's lock: raise the fence, so that whoever wrote for the run can write no more; close its
open messages from what the log holds; answer the tool calls that were left without a return; say how it ended.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from db import messages, runs
from db.heads import Head
from runs import state
from runs.engine import Engine
from runs.send import announce_conversation
from runs.tools import error_return
from streams.log import Transaction
from vocabulary.events import MessageChanged, MessageCompleted, RunChanged, ToolCallChanged
from vocabulary.ids import Noun, new_id
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
_UNANSWERED = frozenset({ToolCallState.STREAMING, ToolCallState.PENDING, ToolCallState.RUNNING})


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
    await _cut_step(transaction, run, ending)
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


async def _cut_step(transaction: Transaction, run: Run, ending: Ending) -> None:
    """The step that was going on knows why it ended and what its call took, so that steps add up to their run."""
    steps = await runs.steps_of(transaction.connection, [run.id])
    if steps and (step := steps[-1]).completed_at is None:
        cut = replace(step, usage=step.usage + ending.usage, stop_reason=ending.stop_reason)
        await runs.save_steps(transaction.connection, [cut])


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
    if abandon_step:
        await _complete_steps(transaction, run, called)
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


async def _answer_calls(transaction: Transaction, head: Head, run: Run, message: Message, answered: set[str]) -> None:
    """A call that may have run is never run again behind the model's back: it is told that the outcome is unknown."""
    assert isinstance(message.body, ToolCallBody)
    missing = [call for call in message.body.tool_calls if call.id not in answered]
    if not missing:
        return
    for call in missing:
        if call.state in _UNANSWERED:
            message = await _change_call(
                transaction, head, message, state.moved(state.TOOL_CALL, call.state, ToolCallState.INTERRUPTED), call
            )
    returns = tuple(error_return(call, _OUTCOME_UNKNOWN if call.state is ToolCallState.RUNNING else _NEVER_RUN) for call in missing)
    body = ToolReturnBody(tool_returns=returns)
    await _write(transaction, head, run, MessageType.TOOL_RETURN, body, step_id=message.step_id, in_tail=True)


async def _change_call(transaction: Transaction, head: Head, message: Message, new: ToolCallState, old: ToolCall) -> Message:
    assert isinstance(message.body, ToolCallBody)
    call = replace(old, state=new)
    calls = tuple(call if other.id == call.id else other for other in message.body.tool_calls)
    changed = replace(message, body=ToolCallBody(tool_calls=calls), sequence=head.take_sequence())
    await messages.change(transaction.connection, [changed])
    transaction.append(head, changed.sequence, ToolCallChanged(message.id, message.type, call), run_id=message.run_id)
    return changed


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
    message = Message(
        id=new_id(Noun.MESSAGE),
        conversation_id=head.conversation_id,
        type=kind,
        status=MessageStatus.COMPLETED,
        ordinal=head.take_ordinal(),
        text=text,
        body=body,
        in_tail=in_tail,
        in_context=in_tail,
        group_id=run.group_id,
        run_id=run.id,
        step_id=step_id,
        sequence=head.take_sequence(),
        created_at=transaction.now,
    )
    await messages.create(transaction.connection, [message])
    transaction.append(head, message.sequence, MessageCompleted(message), run_id=run.id)
