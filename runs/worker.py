"""A worker: holds a lease, takes conversations that need advancing, runs them as tasks, and lets go of what it has lost.

Its parts are small machines of one shape, each an endless `async` method in the worker's task group: the writer, the heartbeat,
the reconciler, the pruner. The task of one job is "advance conversation X".
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from db import messages, runs, workers
from db.engine import DatabaseError
from runs.advance import Lease, advance, fail, hand_over, release
from runs.close import Ending
from runs.engine import Engine
from runs.loop import load
from runs.writer import LeaseLost, Pen, Writer, WriteRefused
from vocabulary.ids import Noun, new_id
from vocabulary.runs import RunError, RunErrorType, RunStatus, StopReason

log = structlog.get_logger()

_INSIST_S = 1.0
_FOREVER_S = 10 * 365 * 24 * 3600.0
_PRUNED_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """`sole`: this process owns the database. Every lease found at start is of a process that is gone, and ours needs no heartbeat:
    not even a machine that sleeps in the middle of an answer loses it.
    """

    sole: bool
    lease_s: float = 15.0
    reconcile_s: float = 5.0
    prune_s: float = 60.0
    delta_retention_s: float = 3600.0
    hand_over_s: float = 1.0


class Worker:
    """`run()` until cancelled; then what it holds is handed over."""

    def __init__(self, engine: Engine, limits: WorkerLimits) -> None:
        self.id = new_id(Noun.WORKER)
        self.ready = asyncio.Event()
        self._engine = engine
        self._limits = limits
        self._writer = Writer(engine)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by run
        self._in_doubt: set[str] = set()  # conversations that we tried to advance and were not told whether we did
        self._jobs: set[asyncio.Task[None]] = set()
        self._closing = False

    async def run(self) -> None:
        await self._register()
        writing = asyncio.create_task(self._writer.run(), name="writer")
        try:
            async with asyncio.TaskGroup() as machines:
                machines.create_task(self._guard(writing), name="writer guard")
                if not self._limits.sole:
                    machines.create_task(self._every(self._limits.lease_s / 3, self._heartbeat), name="heartbeat")
                machines.create_task(self._every(self._limits.prune_s, self._prune), name="pruner")
                machines.create_task(self._every(self._limits.reconcile_s, self._reconcile, at_once=True), name="reconciler")
                self.ready.set()
        finally:
            await self._let_go()
            writing.cancel()
            await asyncio.wait({writing})

    def advance_soon(self, conversation_id: str) -> None:
        """A job for this worker. Any number of jobs for one conversation are as good as one."""
        if self._closing:
            return
        job = asyncio.get_running_loop().create_task(self._job(conversation_id), name=f"advance {conversation_id}")
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _register(self) -> None:
        async with self._engine.log.transaction() as transaction:
            if self._limits.sole:
                await workers.retire_all(transaction.connection)
            await workers.register(transaction.connection, self.id, _FOREVER_S if self._limits.sole else self._limits.lease_s)

    async def _guard(self, writing: asyncio.Task[None]) -> None:
        """The writer must outlive the other machines, to commit the last words of runs; but it must not die before them."""
        await asyncio.shield(writing)

    async def _job(self, conversation_id: str) -> None:
        try:
            await self._advance(conversation_id)
        except Exception:
            log.exception("a job failed inside the engine; the reconciler comes back to it", conversation_id=conversation_id)

    async def _advance(self, conversation_id: str) -> None:
        try:
            lease = await advance(self._engine, self.id, conversation_id)
        except DatabaseError as error:
            self._in_doubt.add(conversation_id)
            log.warning("a conversation could not be advanced; the reconciler will", conversation_id=conversation_id, error=str(error))
            return
        if lease is not None:
            await self._hold(lease)

    async def _hold(self, lease: Lease) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[lease.run.id] = task
        try:
            ending = await self._respond(lease)
            if ending is not None:
                await self._insist(lambda: fail(self._engine, lease, ending))
        except LeaseLost:
            log.info("lost the lease of a run", run_id=lease.run.id)
        except DatabaseError as error:
            log.warning("a run could not begin; it is handed on", run_id=lease.run.id, error=str(error))
            await self._insist(lambda: hand_over(self._engine, lease))
        except asyncio.CancelledError:
            if self._closing:
                with suppress(*DatabaseError):
                    await hand_over(self._engine, lease)
            raise
        finally:
            self._tasks.pop(lease.run.id, None)

    async def _insist(self, command: Callable[[], Awaitable[None]]) -> None:
        """What must not be left undone while this worker lives: nobody else would do it before the lease runs out."""
        while True:
            try:
                return await command()
            except DatabaseError as error:
                log.warning("the database is away; trying again", error=str(error))
            await asyncio.sleep(_INSIST_S)

    async def _respond(self, lease: Lease) -> Ending | None:
        """How the run must be closed, unless it has ended by itself. A bug in the engine is an ending too.

        Only reading what it needs may raise DatabaseError; whatever looks like one later comes from elsewhere, and would come again.
        """
        pen = Pen(lease, self._writer)
        loop = await load(self._engine, pen)
        try:
            ending = await loop.to_the_end()
            await pen.flush()
            return ending
        except LeaseLost:
            raise
        except Exception:
            log.exception("a run failed inside the engine", run_id=lease.run.id)
            with suppress(WriteRefused):
                await pen.flush()  # what was said before it failed stays said
            error = RunError(RunErrorType.INTERNAL, "The server failed while it worked on this run.")
            return Ending(status=RunStatus.FAILED, stop_reason=StopReason.ERROR, error=error)

    async def _let_go(self) -> None:
        """Hands over what is held, within bounds: what cannot be handed over is found by its lease."""
        self._closing = True
        for job in list(self._jobs):
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=self._limits.hand_over_s)
        with suppress(*DatabaseError):
            async with self._engine.log.transaction() as transaction:
                await workers.retire(transaction.connection, self.id)

    async def _every(self, seconds: float, duty: Callable[[], Awaitable[None]], *, at_once: bool = False) -> None:
        """A machine: one duty, again and again. A database that is away is waited out."""
        if not at_once:
            await asyncio.sleep(seconds)
        while True:
            try:
                await duty()
            except DatabaseError as error:
                log.warning("a duty of the worker failed", duty=duty.__name__, error=str(error))
            await asyncio.sleep(seconds)

    async def _heartbeat(self) -> None:
        tasks = dict(self._tasks)  # before the answer: what is taken after it is not in it
        async with self._engine.log.transaction() as transaction:
            held = set(await workers.renew(transaction.connection, self.id, self._limits.lease_s))
        for run_id, task in tasks.items():
            if run_id not in held:
                task.cancel()

    async def _reconcile(self) -> None:
        """Finds what fell through: a job that was lost, a run whose worker is gone, one that we hold without knowing it."""
        for conversation_id in list(self._in_doubt):
            await release(self._engine, self.id, conversation_id, working_on=self._tasks)
            self._in_doubt.discard(conversation_id)
        async with self._engine.database.read() as connection:
            found = await runs.unattended(connection)
        for conversation_id in found:
            self.advance_soon(conversation_id)

    async def _prune(self) -> None:
        """Removes the deltas of messages that were finished long enough ago, a bounded number in each transaction."""
        before = self._engine.clock() - timedelta(seconds=self._limits.delta_retention_s)
        while True:
            async with self._engine.database.read() as connection:
                found = await messages.prunable(connection, before=before, limit=_PRUNED_AT_ONCE)
            if not found:
                return
            async with self._engine.log.transaction() as transaction:
                await messages.prune(transaction.connection, found)
