"""`python -m runs`: workers as processes that die, stop and leave, and what becomes of their runs. The test is an API replica."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator

import pytest
from httpx2 import AsyncClient
from sqlalchemy import text

from cluster.programs import ROOT
from db import heads
from db.engine import Database
from streams.redis_bus import RedisBus
from tests.rig import Rig, rig
from tests.runs.logs import checked, only, until
from tests.runs.processes import LEASE_S, Servers, stopped_with_a_lock, worker
from tests.streams.buses import running
from vocabulary.events import MessageDelta, Payload
from vocabulary.messages import MessageStatus, MessageType
from vocabulary.runs import RunStatus

pytestmark = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)

LONG = " ".join(f"word{number}" for number in range(200))
SLOWLY = "500"  # milliseconds a word: not done before the test is
RECONCILE_S = 5.0
SLACK_S = 10.0  # for a machine that is busy with something else


@pytest.fixture
def servers(database_url: str, redis_url: str) -> Servers:
    return Servers(database_url, redis_url)


@pytest.fixture
async def replica(database: Database, servers: Servers) -> AsyncGenerator[Rig]:
    """On the channels that the programs use; conversations are nobody else's."""
    async with running(RedisBus(servers.redis_url)) as bus, rig(database, bus=bus, works=False) as parley:
        yield parley


def delta(payload: Payload | None) -> bool:
    return isinstance(payload, MessageDelta)


async def test_a_run_whose_worker_was_killed_is_finished_by_another(replica: Rig, servers: Servers) -> None:
    conversation = await replica.conversation()
    async with worker(servers, DEMO_DELAY_MS=SLOWLY) as doomed:
        sent = await replica.say(conversation.id, LONG)
        await until(replica, conversation.id, delta)
        async with worker(servers):
            await doomed.kill()
            async with asyncio.timeout(LEASE_S + RECONCILE_S + SLACK_S):
                run = await replica.ended(sent.run)
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
    await checked(replica, conversation.id)
    answers = [message for message in await replica.history(conversation.id) if message.type is MessageType.ASSISTANT]
    assert [message.status for message in answers] == [MessageStatus.INTERRUPTED, MessageStatus.COMPLETED]
    assert answers[-1].text.endswith("word199")


async def test_a_worker_that_is_told_to_leave_hands_over_what_it_has(replica: Rig, servers: Servers) -> None:
    """No attempt is counted, nobody waits for a lease, and what comes afterwards is the other's."""
    talks = [await replica.conversation() for _ in range(3)]
    async with worker(servers, DEMO_DELAY_MS=SLOWLY) as leaving:
        sent = [await replica.say(conversation.id, LONG) for conversation in talks]
        for conversation in talks:
            await until(replica, conversation.id, delta)
        async with worker(servers, LEASE_S="3600"):
            assert await leaving.terminate(within_s=20) == 0
            sent.append(await replica.say((await replica.conversation()).id, "Hi"))
            ended = [await replica.ended(one.run) for one in sent]
    assert [(run.status, run.attempt) for run in ended] == [(RunStatus.COMPLETED, 1)] * 4
    for conversation in talks:
        await checked(replica, conversation.id)
    async with replica.database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM workers"))).scalar_one() == 1


async def test_a_worker_tells_its_metrics_where_it_is_asked_to(replica: Rig, servers: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url, "METRICS_PORT": port}
        assert f"METRICS_PORT: cannot listen on METRICS_HOST 127.0.0.1, METRICS_PORT {port}" in await refused(["-m", "runs"], given)
    async with worker(servers, METRICS_PORT=port) as leaving, AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        sent = await replica.say((await replica.conversation()).id, "Hi")
        await replica.ended(sent.run)
        told = (await http.get("/metrics")).text
        assert 'parley_runs_ended_total{status="COMPLETED",stop_reason="END_TURN"} 1.0' in told
        assert "parley_jobs_taken_total 1.0" in told
        assert "parley_bus_attached 1.0" in told
        leaving.signal(signal.SIGTERM)
        assert await leaving.ended(within_s=20) == 0


async def test_a_second_signal_ends_it_at_once(replica: Rig, servers: Servers) -> None:
    """Its run cannot be handed over: somebody holds the conversation."""
    conversation = await replica.conversation()
    async with worker(servers, DEMO_DELAY_MS=SLOWLY) as leaving:
        await replica.say(conversation.id, LONG)
        await until(replica, conversation.id, delta)
        async with replica.database.write() as holder, replica.database.read() as watching:
            await holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await heads.lock(holder, conversation.id)
            leaving.signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                while (await watching.execute(text("SELECT count(*) FROM procrastinate_workers"))).scalar_one():
                    pass
            assert await leaving.terminate(within_s=20) == 128 + signal.SIGTERM


async def test_twenty_who_send_at_once_are_answered_one_after_the_other(replica: Rig, servers: Servers) -> None:
    conversation = await replica.conversation()
    async with worker(servers), worker(servers):
        sent = await asyncio.gather(*(replica.say(conversation.id, f"message {number}") for number in range(20)))
        ended = [await replica.ended(one.run) for one in sent]
    assert {(run.status, run.attempt) for run in ended} == {(RunStatus.COMPLETED, 1)}
    await checked(replica, conversation.id)
    in_line = sorted(sent, key=lambda one: one.run.created_sequence)
    told = [message.text for message in (await replica.history(conversation.id))[1:]]
    assert told == [words for one in in_line for words in (one.messages[0].text, f"You said: {one.messages[0].text}")]


async def test_who_was_stopped_with_a_lock_holds_up_others_for_three_seconds_at_most(replica: Rig, servers: Servers) -> None:
    held, free = await replica.conversation(), await replica.conversation()
    async with worker(servers), stopped_with_a_lock(servers, held.id):
        waiting = asyncio.create_task(replica.say(held.id, "Hi"))
        sent = await replica.say(free.id, "Hi")
        assert (await replica.ended(sent.run)).status is RunStatus.COMPLETED
        async with asyncio.timeout(3 + SLACK_S):
            sent = await waiting
        assert (await replica.ended(sent.run)).status is RunStatus.COMPLETED


async def test_runs_go_on_beside_one_whose_conversation_is_held_by_a_stopped_process(replica: Rig, servers: Servers) -> None:
    held, free = await replica.conversation(), await replica.conversation()
    async with worker(servers, DEMO_DELAY_MS="5"):
        stuck = await replica.say(held.id, LONG)
        await until(replica, held.id, delta)
        async with stopped_with_a_lock(servers, held.id, idle_in_transaction_s=0):
            sent = await replica.say(free.id, "Hi")
            assert (await replica.ended(sent.run)).status is RunStatus.COMPLETED
        run = await replica.ended(stuck.run)
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
    await checked(replica, held.id)
    assert only(await replica.history(held.id), MessageType.ASSISTANT).text == f"You said: {LONG}"


async def test_a_worker_survives_the_loss_of_all_its_connections(replica: Rig, servers: Servers) -> None:
    conversation = await replica.conversation()
    cut = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name IN ('parley worker', 'parley jobs')
    """
    async with worker(servers):
        sent = await replica.say(conversation.id, LONG)
        await until(replica, conversation.id, delta)
        async with replica.database.write() as connection:
            assert (await connection.execute(text(cut))).scalar_one() > 3
        run = await replica.ended(sent.run)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        assert (await replica.ended((await replica.say(conversation.id, "Hi")).run)).status is RunStatus.COMPLETED
    await checked(replica, conversation.id)


REFUSALS = {
    "no bus": ({"REDIS_URL": ""}, "DATABASE_URL: expected sqlite+aiosqlite:///FILE, or postgresql"),
    "an address of Redis": ({"REDIS_URL": "redis://:part/rest@127.0.0.1:1"}, "REDIS_URL: expected redis://HOST:PORT"),
    "an option": ({"DATABASE_URL": "postgresql+asyncpg://me@127.0.0.1:1/none?sslmode=disable"}, "; the option sslmode cannot be used"),
    "no certificate": (
        {"DATABASE_URL": "postgresql+asyncpg://me@127.0.0.1:1/none?ssl=verify-full", "PGSSLROOTCERT": "/nowhere"},
        "DATABASE_URL: postgresql+asyncpg://me@127.0.0.1:1/none?ssl=verify-full cannot be used: ",
    ),
    "no model": ({"DEFAULT_MODEL": "demo/none"}, "demo/none"),
    "older": ({"revision": "0001"}, "is at revision 0001, older than this version; run `python -m db upgrade` first"),
    "newer": ({"revision": "9999"}, "is at revision 9999, which this version does not know"),
    "no server": (
        {"DATABASE_URL": "postgresql+asyncpg://me@127.0.0.1:1/none"},
        "DATABASE_URL: postgresql+asyncpg://me@127.0.0.1:1/none cannot be used: ",
    ),
}


@pytest.mark.parametrize(("settings", "refusal"), REFUSALS.values(), ids=REFUSALS.keys())
@pytest.mark.parametrize("program", [["-m", "runs"], ["app.py"]], ids=["worker", "server"])
async def test_a_program_that_cannot_work_says_so_in_one_line(
    program: list[str], settings: dict[str, str], refusal: str, servers: Servers, database: Database
) -> None:
    given = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url, "PORT": "0", **settings}
    if revision := given.pop("revision", None):
        async with database.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    assert refusal in await refused(program, given)


async def test_a_worker_that_cannot_be_registered_says_so_in_one_line(servers: Servers, database: Database) -> None:
    given = {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "LOCK_TIMEOUT_S": "0.2",
        "IDLE_TRANSACTION_TIMEOUT_S": "0.1",
    }
    async with database.write() as connection:
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await connection.execute(text("LOCK TABLE workers"))
        line = await refused(["-m", "runs"], given)
    assert line.startswith("DATABASE_URL: postgresql+asyncpg://")
    assert line.endswith("canceling statement due to lock timeout")


async def test_a_worker_has_no_work_beside_sqlite(postgres_to_copy: object) -> None:  # noqa: ARG001
    assert "DATABASE_URL: expected PostgreSQL; beside SQLite" in await refused(["-m", "runs"], {})


async def refused(program: list[str], given: dict[str, str]) -> str:
    """The one line that it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, cwd=ROOT, env={"PATH": os.environ["PATH"], **given}, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 1, said
    [line] = said.decode().splitlines()
    return line
