"""A worker: holds a lease, takes conversations that need advancing, runs them as tasks, and lets go of what it has lost.

Its parts are small machines of one shape, each an endless `async` method in the worker's task group: the writer, the heartbeat,
the reconciler, the eraser, the pruner. The task of one job is "advance conversation X".
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from db import conversations, forks, messages, runs, workers
from db.engine import DatabaseError
from db.runs import Unattended
from db.workers import Held
from runs.close import Ending
from runs.commands.respond import expire
from runs.engine import Engine
from runs.steps.loop import load
from runs.workers.advance import advance, fail, hand_over, release
from runs.workers.orphans import erase_orphans
from runs.workers.sightings import Sightings
from runs.writing.pen import LONGEST_PART, Lease, LeaseLost, Pen, WriteRefused
from runs.writing.writer import Writer
from vocabulary.ids import Noun, new_id
from vocabulary.runs import RunError, RunErrorType, RunStatus, StopReason

log = structlog.get_logger()

_INSIST_S = 1.0
_FOREVER_S = 10 * 365 * 24 * 3600.0
_GONE_S = 3600.0
_PRUNED_AT_ONCE = 100
_FORKS_AT_ONCE = 10
_EXPIRED_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """`concurrency`: runs at a time. `sole`: this process owns the database. Every lease found at start is of a process that is gone,
    and ours needs no heartbeat: not even a machine that sleeps in the middle of an answer loses it. `longest_part`: how many writes
    of one run are committed together at most.
    """

    sole: bool
    concurrency: int = 1000
    lease_s: float = 15.0
    reconcile_s: float = 1.5
    prune_s: float = 60.0
    approval_expiry_s: float | None = None
    delta_retention_s: float = 3600.0
    hand_over_s: float = 1.0
    longest_part: int = LONGEST_PART

    @property
    def expiry_look_s(self) -> float:
        return max(0.05, min(60.0, (self.approval_expiry_s or 0) / 4))

    @property
    def heartbeat_s(self) -> float:
        """So often that a run whose worker died is taken within its lease, one look of a reconciler, and this."""
        return self.lease_s / 5


@dataclass(frozen=True, slots=True)
class _Work:
    """A run that this worker works on."""

    lease: Lease
    task: asyncio.Task[None]

    def stop(self) -> None:
        """It is no longer ours: somebody has ended it, or taken it."""
        self.task.cancel()


class Worker:
    """`run()` until cancelled; then what it holds is handed over."""

    def __init__(self, engine: Engine, limits: WorkerLimits) -> None:
        self.id = new_id(Noun.WORKER)
        self.ready = asyncio.Event()
        self._engine = engine
        self._limits = limits
        self._writer = Writer(engine)
        self._places = asyncio.Semaphore(limits.concurrency)
        self._work: dict[str, _Work] = {}  # by run
        self._in_doubt: set[str] = set()  # conversations in which we may hold a run that we do not work on
        self._idle: frozenset[Held] = frozenset()  # what we held at the last heartbeat without working on it
        self._sightings = Sightings(patience_s=0 if limits.sole else limits.heartbeat_s)
        self._lease_ends = 0.0
        self._renewed = asyncio.Event()
        self._jobs: dict[asyncio.Task[None], Unattended | None] = {}  # None: somebody has asked for it
        self._closing = False

    async def run(self) -> None:
        self._engine.log.bus.heed(self.id, self._stop)
        await self._register()
        writing = asyncio.create_task(self._writer.run(), name="writer")
        try:
            async with asyncio.TaskGroup() as machines:
                machines.create_task(self._guard(writing), name="writer guard")
                if not self._limits.sole:
                    machines.create_task(self._every(self._limits.heartbeat_s, self._heartbeat), name="heartbeat")
                    machines.create_task(self._watch_lease(), name="lease watch")
                machines.create_task(self._every(self._limits.prune_s, self._prune), name="pruner")
                if self._limits.approval_expiry_s is not None:
                    machines.create_task(self._every(self._limits.expiry_look_s, self._expire), name="expiry of approvals")
                machines.create_task(self._every(self._limits.reconcile_s, self._reconcile, at_once=True), name="reconciler")
                machines.create_task(self._every(self._limits.reconcile_s, self._erase), name="eraser")
                self.ready.set()
        finally:
            await self._let_go()
            writing.cancel()
            await asyncio.wait({writing})
            self._engine.log.bus.unheed(self.id)

    async def advance(self, conversation_id: str) -> None:
        """As `advance_soon`; returns when nothing more comes of it. Cancelling the caller does not stop the run: it is the worker's."""
        if self._closing:
            await self._pass_on(conversation_id)
        else:
            self._engine.metrics.jobs_taken.inc()
            await asyncio.wait({self._start(conversation_id)})

    def advance_soon(self, conversation_id: str) -> None:
        """A job for this worker. Any number of jobs for one conversation are as good as one."""
        if not self._closing:
            self._engine.metrics.jobs_taken.inc()
            self._start(conversation_id)

    def _start(self, conversation_id: str, *, found: Unattended | None = None) -> asyncio.Task[None]:
        job = asyncio.get_running_loop().create_task(self._job(conversation_id, found), name=f"advance {conversation_id}")
        self._jobs[job] = found
        job.add_done_callback(self._jobs.pop)
        return job

    async def _register(self) -> None:
        lease_s = _FOREVER_S if self._limits.sole else self._limits.lease_s
        self._lease_ends = asyncio.get_running_loop().time() + lease_s
        async with self._engine.log.transaction() as transaction:
            if self._limits.sole:
                await workers.retire_all(transaction.connection)
            await workers.register(transaction.connection, self.id, lease_s)

    async def _guard(self, writing: asyncio.Task[None]) -> None:
        """The writer must outlive the other machines, to commit the last words of runs; but it must not die before them."""
        await asyncio.shield(writing)

    async def _job(self, conversation_id: str, found: Unattended | None) -> None:
        try:
            await self._advance(conversation_id, found)
        except Exception:
            log.exception("a job failed inside the engine; the reconciler comes back to it", conversation_id=conversation_id)

    async def _advance(self, conversation_id: str, found: Unattended | None) -> None:
        lease = None
        try:
            async with self._places:
                await self._leased()
                lost = found.worker_id if found is not None and self._sightings.still(found) else None
                lease = await self._take(conversation_id, lost)
                if lease is not None:
                    await self._hold(lease)
        except DatabaseError as error:
            self._sightings.forget()
            log.warning("a conversation could not be advanced; the reconciler will", conversation_id=conversation_id, error=str(error))
        finally:
            if lease is None and self._closing:
                await self._pass_on(conversation_id)

    async def _leased(self) -> None:
        """Waits while our lease is over: what was taken now would be stopped again."""
        while self._lease_is_over():
            self._renewed.clear()
            await self._renewed.wait()

    def _lease_is_over(self) -> bool:
        return self._lease_ends <= asyncio.get_running_loop().time()

    async def _take(self, conversation_id: str, lost: str | None) -> Lease | None:
        try:
            return await advance(self._engine, self.id, conversation_id, lost=lost)
        except (asyncio.CancelledError, *DatabaseError):
            self._in_doubt.add(conversation_id)  # it may have been committed
            raise

    async def _pass_on(self, conversation_id: str) -> None:
        """A job that came while we were leaving is for another worker. Where there is none, the next start finds it."""
        if not self._limits.sole:
            with suppress(*DatabaseError):
                async with self._engine.log.transaction() as transaction:
                    await self._engine.dispatcher.defer(transaction, conversation_id)

    async def _hold(self, lease: Lease) -> None:
        task = asyncio.current_task()
        assert task is not None
        work = _Work(lease, task)
        self._begin(work)
        try:
            ending = await self._respond(work)
            if ending is not None:
                await self._insist(lambda: fail(self._engine, lease, ending))
        except LeaseLost:
            log.info("lost the lease of a run", run_id=lease.run.id)
        except DatabaseError as error:
            log.warning("a run could not begin; it is handed on", run_id=lease.run.id, error=str(error))
            await self._insist(lambda: hand_over(self._engine, lease, failed=True))
        except asyncio.CancelledError:
            if self._closing:
                with suppress(*DatabaseError):
                    await hand_over(self._engine, lease)
            raise
        finally:
            self._end(work)

    def _begin(self, work: _Work) -> None:
        """Whoever works on the same run here has lost it, and may not have noticed: the last to take it is who holds it."""
        if (before := self._work.get(work.lease.run.id)) is not None:
            before.stop()
        self._work[work.lease.run.id] = work

    def _end(self, work: _Work) -> None:
        if self._work.get(work.lease.run.id) is work:
            del self._work[work.lease.run.id]

    async def _insist(self, command: Callable[[], Awaitable[None]]) -> None:
        """What must not be left undone while this worker lives: nobody else would do it before the lease runs out."""
        while True:
            try:
                return await command()
            except DatabaseError as error:
                log.warning("the database is away; trying again", error=str(error))
            await asyncio.sleep(_INSIST_S)

    def _stop(self, run_id: str) -> None:
        """Told by a signal; when that is lost or comes early its fence tells."""
        if (work := self._work.get(run_id)) is not None:
            work.stop()

    async def _respond(self, work: _Work) -> Ending | None:
        """How the run must be closed, unless it has ended by itself. A bug in the engine is an ending too.

        Only reading what it needs may raise DatabaseError; whatever looks like one later comes from elsewhere, and would come again.
        """
        pen, begun = Pen(work.lease, self._writer, lost=work.stop, longest_part=self._limits.longest_part), False
        try:
            loop = await load(self._engine, pen)
            begun = True
            ending = await loop.to_the_end()
            await pen.flush()
            return ending
        except LeaseLost:
            raise
        except Exception as error:
            if not begun and isinstance(error, DatabaseError):
                raise
            log.exception("a run failed inside the engine", run_id=work.lease.run.id)
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
            async with asyncio.timeout(self._limits.hand_over_s):
                await self._settle_doubts()
        with suppress(*DatabaseError):
            async with self._engine.log.transaction() as transaction:
                await workers.retire(transaction.connection, self.id)

    async def _every(self, seconds: float, duty: Callable[[], Awaitable[None]], *, at_once: bool = False) -> None:
        """A machine: one duty, again and again, never in step with other workers'. A database that is away is waited out."""
        if not at_once:
            await asyncio.sleep(seconds * random.random())
        while True:
            try:
                await duty()
            except DatabaseError as error:
                self._sightings.forget()
                log.warning("a duty of the worker failed", duty=duty.__name__, error=str(error))
            await asyncio.sleep(seconds * random.uniform(0.8, 1.0))

    async def _heartbeat(self) -> None:
        asked = asyncio.get_running_loop().time()
        working = dict(self._work)  # before the answer: what is taken after it is not in it
        was_there, held = await self._renew()
        self._lease_ends = asked + self._limits.lease_s
        self._renewed.set()
        if not was_there:  # to everybody else we were gone, with all that we hold
            self._stop_work()
        ids = {one.run_id for one in held}
        for run_id, work in working.items():
            if run_id not in ids:
                work.stop()
        idle = frozenset(one for one in held if one.run_id not in self._work)
        self._in_doubt |= {one.conversation_id for one in idle & self._idle}
        self._idle = idle  # the reconciler lets go of them: that waits in line, which a heartbeat must not

    async def _renew(self) -> tuple[bool, frozenset[Held]]:
        """Whether others still knew us, and what is ours. Whoever was forgotten, as after an outage that was long, is there again."""
        async with asyncio.timeout(self._limits.lease_s), self._engine.database.write_apart() as connection:
            was_there = await workers.renew(connection, self.id, self._limits.lease_s)
            if not was_there:
                await workers.register(connection, self.id, self._limits.lease_s)
            return was_there, frozenset(await workers.held(connection, self.id))

    async def _watch_lease(self) -> None:
        """Whoever cannot tell the others that it lives must stop: they hold it for dead, and do its work."""
        loop = asyncio.get_running_loop()
        while True:
            left_s = self._lease_ends - loop.time()
            if left_s <= 0:
                self._stop_work()
            await asyncio.sleep(left_s if left_s > 0 else self._limits.heartbeat_s)

    def _stop_work(self) -> None:
        """What is ours by then, if it still is, is let go of when the database can be asked again."""
        for work in self._work.values():
            log.warning("the lease has run out; a run is left to others", run_id=work.lease.run.id)
            self._in_doubt.add(work.lease.run.conversation_id)
            work.stop()

    async def _reconcile(self) -> None:
        """Finds what fell through: a job that was lost, a run whose worker is gone, one that we hold without working on it.

        A run that was under way gets the next place that becomes free: behind a queue that is never empty it would wait for ever. What
        waits in line has its job there, most often, and is taken only when places are free.
        """
        await self._settle_doubts()
        if self._lease_is_over():
            return self._sightings.forget()  # whoever is late does not call others late
        async with self._engine.database.read() as connection:
            found = await runs.unattended(connection)
        left = self._sightings.confirmed(found, now=asyncio.get_running_loop().time())
        taken_over = {one for one in self._jobs.values() if one is not None and not one.waits}  # or in line for a place
        under_way = [one for one in left if not one.waits and one not in taken_over]
        self._start_some(under_way, room=self._limits.concurrency - len(taken_over))
        self._start_some([one for one in left if one.waits], room=self._limits.concurrency - len(self._jobs))

    def _start_some(self, found: Sequence[Unattended], *, room: int) -> None:
        """Other workers see the same, and take others first."""
        for one in random.sample(found, min(max(0, room), len(found))):
            self._start(one.conversation_id, found=one)

    async def _settle_doubts(self) -> None:
        for conversation_id in list(self._in_doubt):
            let_go = release(self._engine, self.id, conversation_id, working_on=self._work)
            await _passing_over(let_go, "a run that we may hold could not be let go of", conversation_id)
            self._in_doubt.discard(conversation_id)

    async def _erase(self) -> None:
        """Deletes what deleted agents have left behind."""
        await erase_orphans(self._engine)

    async def _expire(self) -> None:
        """Tool calls that have waited too long for an answer are denied."""
        before = self._engine.clock() - timedelta(seconds=self._limits.approval_expiry_s or 0)
        async with self._engine.database.read() as connection:
            waiting = await conversations.waiting_since(connection, before=before, limit=_EXPIRED_AT_ONCE)
        for conversation_id in waiting:
            denied = expire(self._engine, conversation_id, before=before)
            await _passing_over(denied, "calls that have waited too long could not be denied", conversation_id)

    async def _prune(self) -> None:
        """Removes the deltas of messages that were finished long enough ago, a bounded number in each transaction, forks whose
        maker died, and dead workers."""
        before = self._engine.clock() - timedelta(seconds=self._limits.delta_retention_s)
        taken = True
        while taken:
            async with self._engine.log.transaction() as transaction:
                taken = await messages.take_prunable(transaction.connection, before=before, limit=_PRUNED_AT_ONCE)
                await messages.prune(transaction.connection, taken)
        async with self._engine.log.transaction() as transaction:
            before = self._engine.clock() - timedelta(seconds=_GONE_S)
            await forks.remove(
                transaction.connection, await forks.take_abandoned(transaction.connection, before=before, limit=_FORKS_AT_ONCE)
            )
        async with self._engine.log.transaction() as transaction:
            await workers.forget_gone(transaction.connection, gone_s=_GONE_S)


async def _passing_over(change: Awaitable[object], failed: str, conversation_id: str) -> None:
    """What cannot be read, as it may be of a newer version, must not keep others waiting, nor end all that we work on."""
    try:
        await change
    except DatabaseError:
        raise
    except Exception:
        log.exception(failed, conversation_id=conversation_id)
