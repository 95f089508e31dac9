"""The chaos matrix: real programs on real servers, people in the middle of their answers, one fault, and then everything must be well.

`make chaos` goes through it several times (CHAOS_ROUNDS) with more people (CHAOS_PEOPLE); beside the other tests it is gone through once.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from cluster.topology import Topology, topology
from db.engine import Database
from streams.redis_bus import RedisBus
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.muffler import Muffler, muffler
from tests.chaos.oracle import all_is_well, attended
from tests.chaos.people import Person, people
from tests.e2e.client import Client, client_of
from tests.rig import Rig, rig
from tests.streams.buses import running

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
PEOPLE = int(os.environ.get("CHAOS_PEOPLE", "6"))
LEASE_S = 4.0
RECONCILE_S = 5.0
SLACK_S = 10.0  # for a machine that is busy with something else
REST_S = 90.0  # an announcement that was lost last of all is missed after half a minute
WORDS = " ".join(f"word{number}" for number in range(60))

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]


@dataclass(frozen=True, slots=True)
class Stage:
    running: Topology
    muffler: Muffler
    replicas: tuple[Client, ...]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[Stage]:
    settings: dict[str, Any] = {"LEASE_S": str(LEASE_S), "DEMO_DELAY_MS": "40", "LOG_LEVEL": "WARNING"}
    async with AsyncExitStack() as parts:
        between = await parts.enter_async_context(muffler())
        started = await parts.enter_async_context(topology(REDIS_URL=between.url, **settings))
        between.target = started.redis.port
        replicas = [await parts.enter_async_context(client_of(api.url)) for api in started.apis]
        yield Stage(started, between, tuple(replicas))


@pytest_asyncio.fixture(loop_scope="module")
async def observer(stage: Stage) -> AsyncGenerator[Rig]:
    """Looks at the rows, when all is over."""
    database = Database.open(stage.running.postgres.url)
    try:
        async with running(RedisBus(stage.running.redis.url)) as bus, rig(database, bus=bus, works=False) as parley:
            yield parley
    finally:
        await database.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_is_lost(fault: str, stage: Stage, observer: Rig) -> None:
    for _ in range(ROUNDS):
        async with people(PEOPLE, stage.replicas) as talking:
            first, more = await _in_the_middle_of_answers(talking)
            await FAULTS[fault](Scene(stage.running, stage.muffler, talking))
            took_s = await attended(observer.database, within_s=LEASE_S + RECONCILE_S + SLACK_S)
            await _at_rest(talking, [*first, *more])
            await all_is_well(observer, talking)
            print(f"{fault}: attended after {took_s:.1f} s; {[dict(person.losses) for person in talking]}")  # noqa: T201


async def _in_the_middle_of_answers(talking: list[Person]) -> tuple[list[str], list[str]]:
    """Each is being answered, and has said something else meanwhile, which waits in line."""
    async with asyncio.timeout(REST_S):
        first = await asyncio.gather(*(person.says(f"first {WORDS}") for person in talking))
        await asyncio.gather(*(person.is_writing() for person in talking))
        more = await asyncio.gather(*(person.says("and then") for person in talking))
    return first, more


async def _at_rest(talking: list[Person], run_ids: list[str]) -> None:
    """Everybody says a last word, and has seen the end of everything."""
    async with asyncio.timeout(REST_S):
        last = await asyncio.gather(*(person.says("thank you") for person in talking))
        for person, run_id in zip(talking * 3, [*run_ids, *last], strict=True):
            await person.has_seen_the_end_of(run_id)
        for person in talking:
            snapshot = await person.replicas[0].snapshot(person.conversation_id)
            await person.has_come_to(snapshot.position)


async def test_twenty_who_speak_at_once_are_answered_one_after_the_other(stage: Stage, observer: Rig) -> None:
    """In the order in which they were acknowledged to stand, each answer quoting its own question."""
    async with people(1, stage.replicas) as [person]:
        run_ids = await asyncio.gather(*(person.says(f"question {number}") for number in range(20)))
        async with asyncio.timeout(REST_S):
            for run_id in run_ids:
                await person.has_seen_the_end_of(run_id)
            snapshot = await person.replicas[0].snapshot(person.conversation_id)
            await person.has_come_to(snapshot.position)
        await all_is_well(observer, [person])
        history = sorted(snapshot.messages.values(), key=lambda message: message["ordinal"])
        spoken = [message for message in history if message["type"] in ("USER", "ASSISTANT")]
        assert [message["type"] for message in spoken] == ["USER", "ASSISTANT"] * 20
        for question, answer in zip(spoken[::2], spoken[1::2], strict=True):
            assert question["runId"] == answer["runId"]
            assert question["text"] in answer["text"]
