"""What every dispatcher promises, and what only jobs in a database can."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from procrastinate import App
from procrastinate.testing import InMemoryConnector
from sqlalchemy import make_url, text

from cluster.postgres import execute
from db.engine import Database
from runs.engine import Dispatcher
from runs.workers.dispatch import LocalDispatcher
from runs.workers.jobs import AttentiveManager, JobDispatcher, Jobs
from streams.bus import MemoryBus
from streams.log import Log
from tests.rig import rig, utc_now
from tests.runs.logs import eventually

DEADLINE_S = 30
on_postgresql = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)


class Recorder:
    """Whoever advances: remembers for whom it was called, and takes as long as it is told."""

    def __init__(self) -> None:
        self.called: asyncio.Queue[str] = asyncio.Queue()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.at_once = self.most_at_once = 0

    def advance_soon(self, conversation_id: str) -> None:
        self.called.put_nowait(conversation_id)

    async def advance(self, conversation_id: str) -> None:
        self.called.put_nowait(conversation_id)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await self.may_end.wait()
        self.at_once -= 1

    async def next(self) -> str:
        async with asyncio.timeout(DEADLINE_S):
            return await self.called.get()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def dispatcher(database: Database, recorder: Recorder) -> AsyncGenerator[Dispatcher]:
    """Tasks beside SQLite, jobs beside PostgreSQL; whoever is asked for is served already."""
    if database.is_sqlite:
        local = LocalDispatcher()
        local.serve(recorder.advance_soon)
        yield local
        return
    serving = asyncio.create_task(Jobs(database, recorder, concurrency=2).run())
    yield JobDispatcher()
    recorder.may_end.set()
    await stopped(serving)


async def stopped(serving: asyncio.Task[None]) -> None:
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database, MemoryBus(), utc_now)


async def ask(log: Log, dispatcher: Dispatcher, *conversation_ids: str) -> None:
    async with log.transaction() as transaction:
        for conversation_id in conversation_ids:
            await dispatcher.defer(transaction, conversation_id)


class TestEveryDispatcher:
    async def test_what_is_asked_for_is_advanced(self, log: Log, dispatcher: Dispatcher, recorder: Recorder) -> None:
        await ask(log, dispatcher, "conv-1")
        assert await recorder.next() == "conv-1"

    async def test_nothing_is_advanced_before_the_commit_nor_without_it(self, log: Log, dispatcher: Dispatcher, recorder: Recorder) -> None:
        with suppress(RuntimeError):
            async with log.transaction() as transaction:
                await dispatcher.defer(transaction, "conv-rolled-back")
                raise RuntimeError
        async with log.transaction() as transaction:
            await dispatcher.defer(transaction, "conv-late")
            assert recorder.called.empty()
        assert await recorder.next() == "conv-late"

    async def test_what_is_asked_for_again_while_it_is_being_advanced_is_advanced_again(
        self, log: Log, dispatcher: Dispatcher, recorder: Recorder
    ) -> None:
        """The first may have looked just before there was something to find."""
        recorder.may_end.clear()
        await ask(log, dispatcher, "conv-1")
        assert await recorder.next() == "conv-1"
        await ask(log, dispatcher, "conv-1")
        assert await recorder.next() == "conv-1"

    async def test_many_conversations_are_all_advanced(self, log: Log, dispatcher: Dispatcher, recorder: Recorder) -> None:
        wanted = {f"conv-{number}" for number in range(20)}
        await asyncio.gather(*(ask(log, dispatcher, one) for one in wanted))
        assert {await recorder.next() for _ in wanted} == wanted


@on_postgresql
async def test_jobs_wait_for_a_worker_and_leave_nothing_behind(database: Database, log: Log, recorder: Recorder) -> None:
    await ask(log, JobDispatcher(), "conv-1", "conv-2", "conv-3")
    serving = asyncio.create_task(Jobs(database, recorder, concurrency=2).run())
    assert {await recorder.next() for _ in range(3)} == {"conv-1", "conv-2", "conv-3"}
    await until_none_are_left(database)
    await stopped(serving)


async def until_none_are_left(database: Database) -> None:
    async with asyncio.timeout(DEADLINE_S), database.read() as connection:
        while (await connection.execute(text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'advance'"))).scalar_one():
            pass


@on_postgresql
async def test_no_more_jobs_are_taken_than_there_is_room_for(
    database: Database, log: Log, dispatcher: Dispatcher, recorder: Recorder
) -> None:
    recorder.may_end.clear()
    await ask(log, dispatcher, "conv-1", "conv-2", "conv-3")
    taken = {await recorder.next(), await recorder.next()}
    async with database.read() as connection:
        waiting = await connection.execute(text("SELECT args->>'conversation_id' FROM procrastinate_jobs WHERE status = 'todo'"))
        assert set(waiting.scalars()) == {"conv-1", "conv-2", "conv-3"} - taken
    recorder.may_end.set()
    await recorder.next()
    assert recorder.most_at_once == 2


@on_postgresql
async def test_jobs_are_taken_again_after_the_database_has_cut_every_connection(
    database: Database, log: Log, dispatcher: Dispatcher, recorder: Recorder
) -> None:
    await ask(log, dispatcher, "conv-before")
    await recorder.next()
    async with database.write() as connection:
        others = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.execute(text(others))
    for number in range(3):
        await ask(log, dispatcher, f"conv-{number}")
        assert await recorder.next() == f"conv-{number}"


@on_postgresql
async def test_who_cannot_listen_any_more_starts_anew(
    postgres_url: str, database: Database, log: Log, dispatcher: Dispatcher, recorder: Recorder
) -> None:
    """The server was away for a moment in which nobody looked for jobs, and only the listener noticed."""
    name = database.url.database
    await eventually(lambda: _listens(postgres_url, name))
    await execute(postgres_url, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await execute(postgres_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    await eventually(_nobody_tries_to_listen)
    await execute(postgres_url, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await eventually(lambda: _listens(postgres_url, name), seconds=DEADLINE_S)
    await ask(log, dispatcher, "conv-1")
    assert await recorder.next() == "conv-1"


async def _nobody_tries_to_listen() -> bool:
    return not [task for task in asyncio.all_tasks() if task.get_name() == "listener"]


async def _listens(server: str, name: str | None) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'LISTEN%'"
    connection = await asyncpg.connect(make_url(server).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        return bool(await connection.fetchval(query, name))
    finally:
        await connection.close()


@on_postgresql
async def test_a_job_that_reaches_a_worker_as_it_leaves_is_for_another(database: Database, recorder: Recorder) -> None:
    async with rig(database, works=False) as parley:
        leaving = asyncio.create_task(parley.worker.run())
        await parley.worker.ready.wait()
        await stopped(leaving)
        await parley.worker.advance("conv-1")
    serving = asyncio.create_task(Jobs(database, recorder, concurrency=2).run())
    assert await recorder.next() == "conv-1"
    await stopped(serving)


class SlowToAnswer(InMemoryConnector):
    """Finds no job, and says so only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.looked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def fetch_job_one(self, queues: Iterable[str] | None, worker_id: int) -> dict[str, Any]:
        found = await super().fetch_job_one(queues, worker_id)
        self.looked.set()
        await self.may_answer.wait()
        return found


async def test_a_job_that_is_announced_while_the_worker_looks_in_vain_does_not_wait_for_its_next_look() -> None:
    connector, done = SlowToAnswer(), asyncio.Event()
    app = App(connector=connector)
    app.job_manager = AttentiveManager(connector)

    @app.task(name="a task")
    async def task() -> None:
        done.set()

    async with app.open_async():
        working = asyncio.create_task(app.run_worker_async(fetch_job_polling_interval=3600, install_signal_handlers=False))
        await connector.looked.wait()
        await task.defer_async()
        connector.may_answer.set()
        await asyncio.wait_for(done.wait(), 20)
        await stopped(working)
