"""What a command writes of messages in its own transaction, under the head's lock: one that comes whole, those that come to their end,
calls that have moved on. What was read under that lock is what the rows say, so it is here that the tables of `runs/state.py` are asked.
"""

from collections.abc import Sequence
from dataclasses import replace

from db import messages
from db.heads import Head
from runs import state
from runs.writing.writes import without_returns
from streams.log import Transaction
from vocabulary.events import MessageCompleted, ToolCallChanged
from vocabulary.ids import Noun, new_id
from vocabulary.messages import (
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolReturnBody,
)


async def write_message(
    transaction: Transaction,
    head: Head,
    kind: MessageType,
    body: MessageBody,
    *,
    text: str = "",
    run_id: str | None,
    group_id: str | None,
    step_id: str | None,
    in_tail: bool = True,
    told_by: str | None,
) -> Message:
    """It enters history now. `told_by`: the run whose event this is; one that has ended has no more events, but may get messages."""
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
        group_id=group_id,
        run_id=run_id,
        step_id=step_id,
        sequence=head.take_sequence(),
        created_at=transaction.now,
    )
    await messages.create(transaction.connection, [message])
    transaction.append(head, message.sequence, MessageCompleted(message), run_id=told_by)
    return message


async def end_messages(transaction: Transaction, head: Head, ending: Sequence[tuple[Message, Message]]) -> None:
    """Messages that were in line or open, each as it was and as it is from now on. Raises IllegalTransition."""
    ended = [replace(new, status=state.moved(state.MESSAGE, old.status, new.status), sequence=head.take_sequence()) for old, new in ending]
    in_line = {old.id for old, _ in ending if old.status is MessageStatus.QUEUED}
    await messages.change(transaction.connection, [message for message in ended if message.id in in_line])
    await messages.close(transaction.connection, [message for message in ended if message.id not in in_line], now=transaction.now)
    for message in ended:
        transaction.append(head, message.sequence, MessageCompleted(message), run_id=message.run_id)


async def change_calls(
    transaction: Transaction, head: Head, message: Message, changed: Sequence[ToolCall], *, told_by: str | None
) -> Message:
    """The TOOL_CALL message with these calls as they are now; an event for each. Raises IllegalTransition."""
    if not changed:
        return message
    states = {call.id: call.state for call in calls_of(message)}
    for call in changed:
        state.moved(state.TOOL_CALL, states[call.id], call.state)
        told = ToolCallChanged(message.id, message.type, replace(call, returned=None))
        transaction.append(head, head.take_sequence(), told, run_id=told_by)
    by_id = {call.id: call for call in changed}
    calls = tuple(by_id.get(call.id, call) for call in calls_of(message))
    message = replace(message, body=ToolCallBody(tool_calls=calls), sequence=head.head_sequence)
    await messages.change(transaction.connection, [message])
    return message


async def write_returns(transaction: Transaction, head: Head, calls: Message, *, run_id: str | None, told_by: str | None) -> None:
    """What the calls of a step have returned, all of them, in their order."""
    returns = tuple(call.returned for call in calls_of(calls) if call.returned is not None)
    body = ToolReturnBody(tool_returns=returns)
    await write_message(
        transaction, head, MessageType.TOOL_RETURN, body, run_id=run_id, group_id=calls.group_id, step_id=calls.step_id, told_by=told_by
    )
    await messages.tidy(transaction.connection, [without_returns(calls)])


def calls_of(message: Message) -> tuple[ToolCall, ...]:
    assert isinstance(message.body, ToolCallBody)
    return message.body.tool_calls
