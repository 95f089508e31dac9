"""Tool calls that wait: for somebody's approval, or for the client that runs them. What waits, and how it is decided.

The conversation names the request, so waiting outlives every process. Nothing else starts until each of the calls is answered. A
decision only changes the calls; who runs what was approved, and when the returns are told, is the caller's to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from db import conversations, messages
from db.engine import Connection
from db.heads import Head
from runs.tools.registry import error_return
from runs.writing.records import calls_of, change_calls, write_message, write_returns
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.messages import (
    AWAITING,
    ApprovalDecision,
    ApprovalResponseBody,
    Message,
    MessageType,
    ToolCall,
    ToolCallState,
    ToolReturn,
    ToolReturnStatus,
)
from vocabulary.runs import Run


class PendingApproval(Exception):
    """Tool calls wait, and must be answered first."""

    def __init__(self, tool_call_ids: tuple[str, ...]) -> None:
        super().__init__("The conversation waits for an answer to its pending tool calls.")
        self.tool_call_ids = tool_call_ids


@dataclass(frozen=True, slots=True)
class Pending:
    """`request`: the APPROVAL_REQUEST. `calls`: the TOOL_CALL message of its step, with those that wait for nobody, too."""

    request: Message
    calls: Message

    @property
    def waiting(self) -> tuple[ToolCall, ...]:
        return tuple(call for call in calls_of(self.calls) if call.state in AWAITING)


@dataclass(frozen=True, slots=True)
class Approve:
    """The server runs it."""

    reason: str | None = None
    approved: bool = field(default=True, init=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """Nobody runs it, and the model is told so."""

    reason: str | None = None
    approved: bool = field(default=False, init=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The client has run it."""

    output: str
    status: ToolReturnStatus = ToolReturnStatus.SUCCESS


Decision = Approve | Deny | Result


async def pending_of(connection: Connection, conversation: Conversation) -> Pending | None:
    """The caller holds the head."""
    request = None if conversation.pending_message_id is None else await messages.get(connection, conversation.pending_message_id)
    if request is None:
        return None
    calls = await messages.calls_of_step(connection, request.run_id, request.step_id)
    return None if calls is None else Pending(request, calls)


async def refuse_while_pending(connection: Connection, conversation: Conversation) -> None:
    """Raises PendingApproval."""
    pending = await pending_of(connection, conversation)
    if pending is not None:
        raise PendingApproval(tuple(call.id for call in pending.waiting))


async def deny_pending(
    transaction: Transaction, head: Head, conversation: Conversation, reason: str, *, asked_by: Run | None = None
) -> bool:
    """Denies what waits, if anything does, and tells all returns of that step, so that any run may follow. Answers whether it did.

    `asked_by`: only what waits since this run asked for it. The conversation's own event, with the status that follows, is the caller's.
    """
    pending = await pending_of(transaction.connection, conversation)
    if pending is None or (asked_by is not None and pending.request.run_id != asked_by.id):
        return False
    denied = {call.id: Deny(reason) for call in pending.waiting}
    calls, _ = await decide(transaction, head, pending, denied, run_id=pending.request.run_id, told_by=None)
    await write_returns(transaction, head, calls, run_id=pending.request.run_id, told_by=None)
    await conversations.touch(transaction.connection, [head.conversation_id], {"last_message_at": transaction.now})
    return True


async def decide(
    transaction: Transaction, head: Head, pending: Pending, decisions: Mapping[str, Decision], *, run_id: str | None, told_by: str | None
) -> tuple[Message, Message]:
    """The calls as they are now, and the APPROVAL_RESPONSE, a message of `run_id`. The conversation waits no longer."""
    decided = [_decided(call, decisions[call.id]) for call in pending.waiting]
    calls = await change_calls(transaction, head, pending.calls, decided, told_by=told_by)
    response = await write_message(
        transaction,
        head,
        MessageType.APPROVAL_RESPONSE,
        ApprovalResponseBody(decisions=tuple(_told(call.id, decisions[call.id]) for call in pending.waiting)),
        run_id=run_id,
        group_id=pending.request.group_id,
        step_id=pending.request.step_id,
        told_by=told_by,
    )
    await conversations.wait_for(transaction.connection, {head.conversation_id: None})
    return calls, response


def _decided(call: ToolCall, decision: Decision) -> ToolCall:
    match decision:
        case Approve():
            return replace(call, state=ToolCallState.PENDING, returned=None)
        case Deny(reason):
            told = f"The call was denied: {reason}" if reason else "The call was denied."
            return replace(call, state=ToolCallState.DENIED, returned=error_return(call, told))
        case Result(output, status):
            ended = ToolCallState.COMPLETED if status is ToolReturnStatus.SUCCESS else ToolCallState.FAILED
            returned = ToolReturn(tool_call_id=call.id, name=call.name, status=status, output=output)
            return replace(call, state=ended, returned=returned)


def _told(call_id: str, decision: Decision) -> ApprovalDecision:
    """Whoever gives a result has approved."""
    reason = None if isinstance(decision, Result) else decision.reason
    return ApprovalDecision(tool_call_id=call_id, approved=not isinstance(decision, Deny), reason=reason)
