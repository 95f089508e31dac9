"""`/readyz` and `/metrics` of the composed server: what makes it unready, what does not, and that it never takes long to say so."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.routing import Route

from app import Parley, composed
from cluster.postgres import execute
from cluster.redis import RedisServer
from db.engine import Database, PostgresLimits
from settings import Settings
from streams.bus import MemoryBus
from telemetry.metrics import Metrics
from tests.runs.logs import eventually
from transports.probes import Probes

on_postgresql = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
READY = {"status": "ok", "database": "reachable", "bus": "attached"}


@asynccontextmanager
async def served(**settings: str) -> AsyncGenerator[tuple[Parley, AsyncClient]]:
    async with composed(Settings.from_environment(settings)) as parley, visiting(parley.application) as http:
        yield parley, http


@asynccontextmanager
async def visiting(application: Starlette) -> AsyncGenerator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(application), base_url="http://127.0.0.1") as http:
        yield http


async def readiness(http: AsyncClient) -> tuple[int, dict[str, str]]:
    response = await http.get("/readyz")
    return response.status_code, response.json()


async def scraped(http: AsyncClient) -> dict[str, float]:
    return samples(await http.get("/metrics"))


def samples(response: Response) -> dict[str, float]:
    """By name, with the values of its labels."""
    found = [sample for family in text_string_to_metric_families(response.text) for sample in family.samples]
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in found}


@pytest.fixture
def embedded(tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/parley.db", "DEMO_DELAY_MS": "0"}


async def test_who_is_about_to_stop_is_not_ready(embedded: dict[str, str]) -> None:
    async with served(**embedded) as (parley, http):
        assert await readiness(http) == (200, READY)
        await parley.drain()
        assert await readiness(http) == (503, {**READY, "status": "draining"})
        assert (await http.get("/healthz")).status_code == 200, "it lives"


@on_postgresql
async def test_who_has_lost_its_database_is_not_ready_until_it_is_back(database_url: str, redis_url: str, postgres_url: str) -> None:
    name = make_url(database_url).database
    async with served(DATABASE_URL=database_url, REDIS_URL=redis_url) as (_, http):
        await eventually(lambda: _answers(http, 200, READY))
        await execute(postgres_url, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await execute(postgres_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await eventually(lambda: _answers(http, 503, {"status": "unavailable", "database": "unreachable", "bus": "attached"}))
        await execute(postgres_url, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await eventually(lambda: _answers(http, 200, READY))


@on_postgresql
async def test_who_has_lost_redis_is_ready_and_says_so(database_url: str) -> None:
    with RedisServer.running() as redis:
        async with served(DATABASE_URL=database_url, REDIS_URL=redis.url) as (_, http):
            await eventually(lambda: _answers(http, 200, READY))
            assert (await scraped(http))["parley_bus_attached"] == 1
            redis.stop()
            await eventually(lambda: _answers(http, 200, {**READY, "bus": "detached"}))
            assert (await scraped(http))["parley_bus_attached"] == 0
            redis.start()
            await eventually(lambda: _answers(http, 200, READY))
            assert (await scraped(http))["parley_bus_reconnects_total"] == 1


async def _answers(http: AsyncClient, status: int, told: dict[str, str]) -> bool:
    return await readiness(http) == (status, told)


async def test_a_database_that_hangs_is_told_in_time_and_asked_once_for_all_who_want_to_know() -> None:
    connected: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        await reader.read()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        database = Database.open(f"postgresql+asyncpg://parley:secret@127.0.0.1:{port}/parley", postgres=PostgresLimits(connect_s=60))
        probes = Probes(database, MemoryBus(), Metrics(), patience_s=0.3)
        async with visiting(Starlette(routes=[Route("/readyz", probes.ready)])) as http:
            async with asyncio.timeout(20):
                answers = await asyncio.gather(*(readiness(http) for _ in range(5)))
            assert answers == [(503, {"status": "unavailable", "database": "unreachable", "bus": "attached"})] * 5
            assert len(connected) == 1
        for writer in connected:
            writer.close()
        await database.close()


ASK = "{ serverInfo { version } }"
CREATE = 'mutation { createAgent(input: { name: "a" }) { agent { id } } }'


async def test_operations_are_counted_by_kind_and_by_what_became_of_them(embedded: dict[str, str]) -> None:
    async with served(**embedded) as (_, http):
        for query in (
            ASK,
            ASK,
            CREATE,
            '{ conversation(id: "conv-none") { id } }',
            "{ nothing }",
            "{",
            "query A { serverInfo { version } } #",
        ):
            await http.post("/graphql", json={"query": query})
        await http.post("/graphql", content=b"no JSON", headers={"Content-Type": "application/json"})
        told = await scraped(http)
    assert {name: value for name, value in told.items() if name.startswith("parley_requests_total")} == {
        "parley_requests_total OK query": 3,
        "parley_requests_total OK mutation": 1,
        "parley_requests_total NOT_FOUND query": 1,
        "parley_requests_total GRAPHQL_VALIDATION_FAILED query": 1,
        "parley_requests_total GRAPHQL_PARSE_FAILED none": 1,
        "parley_requests_total BAD_USER_INPUT none": 1,
    }


async def test_an_answer_leaves_its_traces(embedded: dict[str, str]) -> None:
    """Everything that a run does is noted once: its wait, its first token, its end, and each of its events."""
    async with served(**embedded) as (_, http):

        async def ask(query: str) -> dict[str, dict[str, dict[str, str]]]:
            return (await http.post("/graphql", json={"query": query})).json()["data"]

        agent = (await ask(CREATE))["createAgent"]["agent"]["id"]
        made = await ask(f'mutation {{ createConversation(input: {{ agentId: "{agent}" }}) {{ conversation {{ id }} }} }}')
        conversation = made["createConversation"]["conversation"]["id"]
        sending = f'{{ conversationId: "{conversation}", waitSeconds: 20, messages: [{{ text: "one two three" }}] }}'
        await ask(f"mutation {{ sendMessage(input: {sending}) {{ run {{ id }} }} }}")
        told = await scraped(http)
        head = (await ask(f'{{ conversation(id: "{conversation}") {{ headSequence }} }}'))["conversation"]
    assert told["parley_runs_ended_total COMPLETED END_TURN"] == 1
    assert told["parley_run_duration_seconds_count COMPLETED"] == 1
    assert told["parley_run_queue_wait_seconds_count"] == told["parley_run_first_token_seconds_count"] == 1
    assert told["parley_events_appended_total"] == float(str(head["headSequence"]))
    assert told["parley_announcements_published_total"] == told["parley_events_appended_total"] + 3, "the list is told, too"
    assert told["parley_batch_events_sum"] < told["parley_events_appended_total"], "the send and the start are no batches"
    assert told["parley_batch_commit_seconds_count"] == told["parley_batch_events_count"] > 0
    assert told["parley_delivery_seconds_count"] > 0, "who waits for a run follows it"
    assert (told["parley_topics"], told["parley_subscribers"], told["parley_sockets"]) == (1, 0, 0)
    assert told["parley_jobs_taken_total"] >= 1
    assert told["parley_database_connections_limit write"] == 1
    assert told["parley_database_connections_in_use write"] == 0
