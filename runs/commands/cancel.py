"""Cancelling: one transaction under the head's lock that closes runs, wherever they are and whoever works on them; it waits for nobody.

When it has returned, those runs write nothing any more: their fence is raised. Their worker is signalled and hangs up at once; a worker
that is dead, or does not hear it, changes nothing about that. Tool calls that wait for somebody are denied, though the run that asked for
them is over.
"""

from dataclasses import dataclass

import structlog

from db import conversations, runs
from db.engine import DatabaseError, is_refusal
from db.heads import Head
from runs.close import cancelled, close_runs
from runs.commands.approvals import deny_pending
from runs.engine import Engine
from runs.heads import announce_conversation, locked
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.runs import CancelOutcome, Run

log = structlog.get_logger()

_CANCELLED = "The conversation was cancelled."
_RUN_CANCELLED = "The run was cancelled."
_NOT_DONE = (*DatabaseError, ValueError, TypeError)  # the latter two: what is stored cannot be read, or has no UTF-8


class RunNotFound(Exception):
    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {run_id!r}.")
        self.run_id = run_id


class NoActiveRuns(Exception):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Nothing runs or waits in conversation {conversation_id!r}.")
        self.conversation_id = conversation_id


@dataclass(frozen=True, slots=True)
class Cancelled:
    """`run`: as it is after that. One that was over, and of which only the calls that waited were denied, is what it was."""

    run: Run
    outcome: CancelOutcome


async def cancel_run(engine: Engine, tenant: str, run_id: str) -> Cancelled:
    """To cancel what has ended changes nothing, unless its tool calls still wait: they are denied, and who waits behind them is next.
    FAILED: its rows cannot be read, or what would close it is refused, now as ever; it is left as it was. Raises RunNotFound.
    """
    try:
        return await _cancel_run(engine, tenant, run_id)
    except _NOT_DONE as error:
        if not is_refusal(error):
            raise
        log.exception("a run cannot be cancelled", run_id=run_id)
        async with engine.database.read() as connection:
            [run] = await runs.by_ids(connection, tenant, [run_id])
        return Cancelled(run, CancelOutcome.FAILED)


async def _cancel_run(engine: Engine, tenant: str, run_id: str) -> Cancelled:
    async with engine.log.transaction() as transaction:
        connection = transaction.connection
        known = await runs.by_ids(connection, tenant, [run_id])
        head = await transaction.lock(known[0].conversation_id) if known else None
        found = await conversations.by_ids(connection, tenant, [head.conversation_id]) if head else []
        if head is None or not found:
            raise RunNotFound(run_id)
        [run] = await runs.by_ids(connection, tenant, [run_id])  # once more: what was read before the lock may be old
        if run.ended:
            denied = await _deny_what_it_left(engine, transaction, head, found[0], run)
            return Cancelled(run, CancelOutcome.CANCELLED if denied else CancelOutcome.ALREADY_ENDED)
        [ended] = await close_runs(engine, transaction, head, [run], cancelled())
        return Cancelled(ended, CancelOutcome.CANCELLED)


async def _deny_what_it_left(engine: Engine, transaction: Transaction, head: Head, conversation: Conversation, run: Run) -> bool:
    """Of a run that stopped for an answer. Nobody goes on with its calls, so it is for us to say who is next."""
    if not await deny_pending(transaction, head, conversation, _RUN_CANCELLED, asked_by=run):
        return False
    await announce_conversation(transaction, head, head.take_sequence(), {"updated_at": transaction.now})
    await engine.dispatcher.defer(transaction, head.conversation_id)
    return True


async def cancel_conversation(engine: Engine, tenant: str, conversation_id: str) -> list[Cancelled]:
    """The active run and all that wait, in the order in which they would have run; at once, unless one of them cannot be. Tool calls that
    wait for somebody are denied; with nothing else to cancel the answer is empty.

    Raises ConversationNotFound, NoActiveRuns.
    """
    try:
        return await _cancel_conversation(engine, tenant, conversation_id)
    except _NOT_DONE as error:
        if not is_refusal(error):
            raise
        async with engine.database.read() as connection:
            live = await runs.live(connection, [conversation_id])
        if not live:
            raise  # it was the calls that cannot be denied: they wait as before
        return [await cancel_run(engine, tenant, run.id) for run in live[conversation_id]]  # the others must not go on for its sake


async def _cancel_conversation(engine: Engine, tenant: str, conversation_id: str) -> list[Cancelled]:
    async with engine.log.transaction() as transaction:
        head, conversation = await locked(transaction, tenant, conversation_id)
        live = (await runs.live(transaction.connection, [conversation_id])).get(conversation_id, [])
        if not live and conversation.pending_message_id is None:
            raise NoActiveRuns(conversation_id)
        await deny_pending(transaction, head, conversation, _CANCELLED)
        if not live:
            await announce_conversation(transaction, head, head.take_sequence(), {"updated_at": transaction.now})
            return []
        ended = await close_runs(engine, transaction, head, live, cancelled())
        return [Cancelled(run, CancelOutcome.CANCELLED) for run in ended]
