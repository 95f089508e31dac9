"""An effect and the return of the call that it is of, in one transaction: together they happened, or neither did.

After a commit whose outcome nobody told us the log is asked under the head's lock, which waits for that commit should it still be on
its way: a call that has returned is never done again.
"""

import asyncio
from dataclasses import replace

import structlog

from db import messages
from db.engine import DatabaseError, is_refusal
from db.heads import Head
from runs.engine import Engine
from runs.tools.registry import Effect, clipped, success
from runs.writing.pen import LeaseLost, Pen
from runs.writing.records import calls_of, change_calls
from streams.log import Transaction
from vocabulary.messages import Message, ToolCall, ToolCallState

log = structlog.get_logger()

_AGAIN_S = 0.5


async def once(engine: Engine, pen: Pen, message_id: str, call_id: str, effect: Effect, *, most_characters: int) -> Message:
    """The TOOL_CALL message with the call COMPLETED. Everything the pen was given must be committed, and it is given nothing meanwhile.

    Waits out a database that is away. Raises LeaseLost, and whatever the effect raises; nothing has happened then.
    """
    while True:
        try:
            async with engine.log.transaction() as transaction:
                head = await _held(transaction, pen)
                message, call = await _found(transaction, message_id, call_id)
                if call.returned is not None:
                    return message
                output = clipped(await effect(transaction), most_characters)
                done = replace(call, state=ToolCallState.COMPLETED, returned=success(call, output))
                return await change_calls(transaction, head, message, [done], told_by=pen.lease.run.id)
        except DatabaseError as error:
            if is_refusal(error):
                raise
            log.warning("a tool's effect was not committed, or nobody knows; trying again", call_id=call_id, error=str(error))
        await asyncio.sleep(_AGAIN_S)


async def _held(transaction: Transaction, pen: Pen) -> Head:
    lease = pen.lease
    head = await transaction.lock(lease.run.conversation_id)
    if head is None or (head.active_run_id, head.fence) != (lease.run.id, lease.fence):
        lost = LeaseLost(lease.run.id)
        pen.failed(lost)
        raise lost
    return head


async def _found(transaction: Transaction, message_id: str, call_id: str) -> tuple[Message, ToolCall]:
    message = await messages.get(transaction.connection, message_id)
    assert message is not None, "a call that runs is stored"
    return message, next(call for call in calls_of(message) if call.id == call_id)
