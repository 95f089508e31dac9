"""Advancing a conversation: who runs next, decided under the head's lock. The run rows are the truth; asking twice is harmless."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from db import conversations, messages, runs, workers
from db.heads import Head
from db.workers import LeaseState
from runs import state
from runs.close import Ending, abandon_step, close_run
from runs.engine import Engine
from runs.measured import note_start, note_takeover
from runs.writing.pen import Lease
from runs.writing.records import end_messages
from streams.log import Transaction
from vocabulary.events import RunChanged
from vocabulary.messages import Message, MessageStatus
from vocabulary.runs import Run, RunError, RunErrorType, RunKind, RunStatus, StopReason


async def advance(engine: Engine, worker_id: str, conversation_id: str, *, lost: str | None = None) -> Lease | None:
    """Takes the RUNNING run that its worker has let go of, else starts the next in the queue; None when there is nothing to take.

    `lost`: a worker that the caller holds for dead. From nobody else is a run taken for no more than a lease that has run out: after
    an outage of the database all leases have, and all workers are there.
    """
    async with engine.log.transaction() as transaction:
        head = await transaction.lock(conversation_id)
        if head is None:
            return None
        waiting = (await runs.live(transaction.connection, [conversation_id])).get(conversation_id)
        run = await _next(transaction, conversation_id, waiting or [])
        if run is None:
            return None
        if run.status is RunStatus.QUEUED:
            return await _start(engine, transaction, head, run, worker_id)
        if run.worker_id is None or (run.worker_id != worker_id and await _is_gone(transaction, run.worker_id, lost)):
            return await _take_over(engine, transaction, head, run, worker_id)
        return None


async def _next(transaction: Transaction, conversation_id: str, waiting: Sequence[Run]) -> Run | None:
    """Of the running run and the queue behind it. While calls wait for an answer the queue does, but for a compaction."""
    if waiting and waiting[0].status is RunStatus.QUEUED:
        found = await conversations.read(transaction.connection, [conversation_id])
        if conversation_id in found and found[conversation_id].pending_message_id is not None:
            return next((run for run in waiting if run.kind is RunKind.COMPACTION), None)
    return waiting[0] if waiting else None


async def _is_gone(transaction: Transaction, worker_id: str, lost: str | None) -> bool:
    match await workers.lease_of(transaction.connection, worker_id):
        case LeaseState.GONE:
            return True
        case LeaseState.EXPIRED:
            return worker_id == lost
        case LeaseState.HELD:
            return False


async def _start(engine: Engine, transaction: Transaction, head: Head, run: Run, worker_id: str) -> Lease:
    """Its queued input enters history now, behind everything that was said before."""
    queued = [message for message in await messages.of_run(transaction.connection, run.id) if message.status is MessageStatus.QUEUED]
    await end_messages(transaction, head, [(message, _entered(head, message)) for message in queued])
    started = replace(run, worker_id=worker_id, started_at=transaction.now)
    note_start(engine.metrics, transaction, started)
    return await _hold(transaction, head, started)


def _entered(head: Head, message: Message) -> Message:
    return replace(message, status=MessageStatus.COMPLETED, ordinal=head.take_ordinal(), in_context=message.in_tail)


async def _take_over(engine: Engine, transaction: Transaction, head: Head, run: Run, worker_id: str) -> Lease | None:
    """Goes on from the last complete step. A crash counts as an attempt, a hand-over (no worker named) does not."""
    crashed = run.worker_id is not None
    if crashed and run.attempt >= engine.max_attempts:
        error = RunError(RunErrorType.WORKER_LOST, f"The run was given up after {run.attempt} attempts whose worker was lost.")
        await _give_up(engine, transaction, head, run, error)
        return None
    note_takeover(engine.metrics, transaction, crashed=crashed)
    left = await abandon_step(transaction, head, run)
    return await _hold(transaction, head, replace(left, worker_id=worker_id, attempt=run.attempt + crashed))


async def _give_up(engine: Engine, transaction: Transaction, head: Head, run: Run, error: RunError) -> None:
    await close_run(engine, transaction, head, run, Ending(status=RunStatus.FAILED, stop_reason=StopReason.ERROR, error=error))


async def hand_over(engine: Engine, lease: Lease, *, failed: bool = False) -> None:
    """Lets go of a run without ending it: the next worker goes on from the last complete step.

    `failed`: it could not begin. That counts as an attempt, or a run that nobody can read would be handed on for ever.
    """
    async with engine.log.transaction() as transaction:
        head = await transaction.lock(lease.run.conversation_id)
        if head is None or (head.active_run_id, head.fence) != (lease.run.id, lease.fence):
            return
        run = await runs.get(transaction.connection, lease.run.id)
        if run is None:
            return
        if failed and run.attempt >= engine.max_attempts:
            error = RunError(RunErrorType.INTERNAL, f"The run was given up after {run.attempt} attempts that could not begin.")
            await _give_up(engine, transaction, head, run, error)
        else:
            await _let_go(engine, transaction, head, replace(run, attempt=run.attempt + failed))


async def release(engine: Engine, worker_id: str, conversation_id: str, *, working_on: Collection[str]) -> None:
    """After an advance that was never answered: if it happened, this worker holds a run that it does not work on, and lets go of it."""
    async with engine.log.transaction() as transaction:
        head = await transaction.lock(conversation_id)  # waits for the commit in doubt, should it still be on its way
        if head is None or head.active_run_id is None or head.active_run_id in working_on:
            return
        run = await runs.get(transaction.connection, head.active_run_id)
        if run is not None and run.worker_id == worker_id:
            await _let_go(engine, transaction, head, run)


async def _let_go(engine: Engine, transaction: Transaction, head: Head, run: Run) -> None:
    head.fence += 1
    await runs.save(transaction.connection, [replace(run, worker_id=None)])
    await engine.dispatcher.defer(transaction, head.conversation_id)


async def _hold(transaction: Transaction, head: Head, run: Run) -> Lease:
    sequence = head.take_sequence()
    running = replace(run, status=state.moved(state.RUN, run.status, RunStatus.RUNNING), sequence=sequence)
    await runs.save(transaction.connection, [running])
    transaction.append(head, sequence, RunChanged(running, RunStatus.RUNNING, None), run_id=run.id)
    head.active_run_id = run.id
    head.fence += 1
    head.write_number = 0
    return Lease(run=running, fence=head.fence)


async def fail(engine: Engine, lease: Lease, ending: Ending) -> None:
    """Ends a run that this worker still holds; does nothing when it has lost it meanwhile."""
    async with engine.log.transaction() as transaction:
        head = await transaction.lock(lease.run.conversation_id)
        if head is None or (head.active_run_id, head.fence) != (lease.run.id, lease.fence):
            return
        run = await runs.get(transaction.connection, lease.run.id)
        if run is not None:
            await close_run(engine, transaction, head, run, replace(ending, by_its_worker=True))
