"""Heads that somebody else has locked, on PostgreSQL: who waits, who does not, and that nobody waits in a circle."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text as sql
from sqlalchemy import update

from db import heads, tables, workers
from db.engine import Connection, Database, PostgresLimits
from runs.workers.worker import WorkerLimits
from streams.bus import Bus
from tests.rig import Rig, rig
from tests.runs.doubt import Doubtful, Fate
from tests.runs.logs import checked, eventually, only, said, until
from tests.runs.scripted import Models, Scripted, finished, gated
from vocabulary.messages import MessageType
from vocabulary.runs import RunStatus

pytestmark = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)

PIECES = ("Once ", "upon ", "a ", "time")


async def somebody_waits(connection: Connection) -> None:
    waiting = sql("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(20):
        while not (await connection.execute(waiting)).scalar_one():
            pass


class Talk:
    """A conversation whose model says one piece more with each gate that is opened."""

    def __init__(self, name: str) -> None:
        cues, self.gates = gated(*PIECES)
        self.model = Scripted([*cues, *finished()], handle=f"test/{name}")

    async def begin(self, parley: Rig) -> None:
        self.conversation = await parley.conversation(model=self.model.handle)
        self.sent = await parley.say(self.conversation.id, "Hi")
        await until(parley, self.conversation.id, said("Once "))

    async def end(self, parley: Rig) -> None:
        for gate in self.gates:
            gate.set()
        run = await parley.ended(self.sent.run)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        await checked(parley, self.conversation.id)
        assert only(await parley.history(self.conversation.id), MessageType.ASSISTANT).text == "".join(PIECES)


async def test_runs_go_on_while_another_waits_for_its_head_and_nothing_of_that_one_is_lost(database_url: str) -> None:
    """The one that waits is tried with the next batches, then waits beside them; in the end its words come in their order."""
    database = Database.open(database_url, postgres=PostgresLimits(idle_in_transaction_s=0, lock_s=0.3))
    held, *free = talks = [Talk(name) for name in ("held", "free", "other")]
    async with rig(database, models=Models(*(talk.model for talk in talks))) as parley:
        for talk in talks:
            await talk.begin(parley)
        async with database.write() as holder, database.read() as watching:
            await heads.lock(holder, held.conversation.id)
            for gate in held.gates:
                gate.set()
            await somebody_waits(watching)
            for talk in free:
                await talk.end(parley)
            await somebody_waits(watching)  # also when it has given up once in between
        await held.end(parley)
    await database.close()


async def test_a_run_that_is_cut_while_it_waits_for_its_head_writes_nothing_more(database: Database) -> None:
    cut, free = talks = [Talk("cut"), Talk("free")]
    limits = WorkerLimits(sole=False, lease_s=5, reconcile_s=60)
    async with rig(database, models=Models(*(talk.model for talk in talks)), worker_limits=limits) as parley:
        for talk in talks:
            await talk.begin(parley)
        async with parley.engine.log.transaction() as transaction, database.read() as watching:
            head = await transaction.lock(cut.conversation.id)
            assert head is not None
            head.fence += 1
            await workers.register(transaction.connection, "worker-x", 60)
            taken = update(tables.runs).where(tables.runs.c.id == cut.sent.run.id).values(worker_id="worker-x")
            await transaction.connection.execute(taken)
            cut.gates[0].set()
            await somebody_waits(watching)
        await asyncio.wait_for(cut.model.left.wait(), 20)
        assert not any(said("upon ")(event.payload) for event in await parley.stored(cut.conversation.id))
        await free.end(parley)


class Staged(Doubtful):
    """Stops before the first commit of the writer that carries several runs, with its locks."""

    reached: asyncio.Event
    may_go_on: asyncio.Event

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        async with super().write(committed) as connection:
            yield connection
            if self.whose == "writer" and (task := asyncio.current_task()) and task.get_name().startswith("writer"):
                self.reached.set()
                await self.may_go_on.wait()


async def test_what_was_skipped_after_a_doubt_is_not_taken_for_written_because_its_neighbour_was(database_url: str) -> None:
    """Two runs in one batch that was lost; then one is skipped and the other is written, at the very numbers of the lost try, in doubt."""
    database = Staged.open(database_url)
    database.reached, database.may_go_on = asyncio.Event(), asyncio.Event()
    another = Database.open(database_url)
    talks = [Talk("one"), Talk("other")]
    async with rig(database, models=Models(*(talk.model for talk in talks))) as parley:
        for talk in talks:
            await talk.begin(parley)
        first, second = sorted(talks, key=lambda talk: talk.conversation.id)
        for talk in talks:
            talk.gates[0].set()
        database.whose, database.fates = "writer", iter([Fate.LOST, Fate.KEPT])
        await database.reached.wait()
        async with another.write() as holder, database.read() as watching:
            holding = asyncio.create_task(heads.lock(holder, second.conversation.id))
            await somebody_waits(watching)
            database.may_go_on.set()
            await holding
            await until(parley, first.conversation.id, said("upon "))
        for talk in talks:
            await talk.end(parley)
    await another.close()
    await database.close()


async def test_sends_batches_takeovers_heartbeats_and_pruning_together_end_in_no_deadlock(
    database_url: str, database: Database, bus: Bus
) -> None:
    """Two workers that take from each other what they can, and as many who talk as there are connections."""
    busy = WorkerLimits(sole=False, lease_s=1, reconcile_s=0.02, prune_s=0.02, delta_retention_s=0)
    impatient = Database.open(database_url, postgres=PostgresLimits(lock_s=2.0))
    async with rig(database, bus=bus, worker_limits=busy) as one, rig(impatient, worker_limits=busy) as other:
        talks = [await one.conversation() for _ in range(6)]
        rounds = [(parley, talk.id) for talk in talks for parley in (one, other) for _ in range(5)]
        sent = await asyncio.gather(*(parley.say(talk, "Tell me more of it") for parley, talk in rounds))

        async def all_have_ended() -> bool:
            async with database.read() as connection:
                live = "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'RUNNING')"
                return (await connection.execute(sql(live))).scalar_one() == 0

        await eventually(all_have_ended)
        assert len(sent) == 60
        async with database.read() as connection:
            await connection.execute(sql("SELECT pg_stat_force_next_flush()"))
            deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            assert (await connection.execute(sql(deadlocks))).scalar_one() == 0
    await impatient.close()


class Watched(Database):
    """Counts how often each batch of the writer searches heads, be it by their keys or by looking at all of them."""

    searches: list[int]

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        async with super().write(committed) as connection:
            before = await self._searched(connection)
            yield connection
            if (task := asyncio.current_task()) and task.get_name().startswith("writer"):
                self.searches.append(await self._searched(connection) - before)

    async def _searched(self, connection: Connection) -> int:
        counted = "SELECT seq_scan + idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'heads'"
        return (await connection.execute(sql(counted))).scalar_one()


async def test_a_run_searches_its_head_again_only_when_somebody_else_has_changed_it(database_url: str) -> None:
    """A send between two of its batches is such a change; it waits for none and its lease holds."""
    database = Watched.open(database_url)
    database.searches = []
    talk = Talk("searching")
    async with rig(database, models=Models(talk.model)) as parley:
        await talk.begin(parley)
        assert await searches_of_next_batch(parley, database, talk, 1) == 0
        queued = await parley.say(talk.conversation.id, "And then?")
        assert await searches_of_next_batch(parley, database, talk, 2) == 1
        for gate in talk.gates:
            gate.set()
        for sent in (talk.sent, queued):
            run = await parley.ended(sent.run)
            assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        await checked(parley, talk.conversation.id)
    await database.close()


async def searches_of_next_batch(parley: Rig, database: Watched, talk: Talk, piece: int) -> int:
    talk.gates[piece - 1].set()
    await until(parley, talk.conversation.id, said(PIECES[piece]))
    return database.searches[-1]
