"""Two replicas on one database, and a Redis between them that goes away: announcements are late then, and nothing else changes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cluster.redis import RedisServer
from db.engine import Database
from streams.hub import HubLimits
from streams.redis_bus import RedisBus
from tests.rig import Rig, rig
from tests.runs.scripted import Models
from tests.streams.buses import redis_bus, running
from tests.streams.pacing import PacedModel
from tests.streams.watching import DEADLINE_S, Audience, Process, Watcher, audience, process
from vocabulary.events import DeltaMode, MessageDelta
from vocabulary.messages import MessageType

MANY_WORDS = "one two three four five six seven eight nine"


@dataclass(frozen=True, slots=True)
class Replicas:
    """`here` runs what is sent; `there` only serves."""

    here: Rig
    there: Process
    model: PacedModel
    buses: tuple[RedisBus, RedisBus]


@asynccontextmanager
async def replicas(database: Database, server: RedisServer, limits: HubLimits | None = None) -> AsyncGenerator[Replicas]:
    model, first = PacedModel(), redis_bus(server.url)
    second = redis_bus(server.url, prefix=first.prefix)
    async with AsyncExitStack() as stack:
        for bus in (first, second):
            await stack.enter_async_context(running(bus))
        here = await stack.enter_async_context(rig(database, bus=first, models=Models(model), hub_limits=limits))
        there = await stack.enter_async_context(process(database, second, limits=limits))
        yield Replicas(here, there, model, (first, second))


@asynccontextmanager
async def audiences(replicas: Replicas, conversation_id: str) -> AsyncGenerator[tuple[Audience, Audience]]:
    async with audience(replicas.here.reader, conversation_id) as here, audience(replicas.there.reader, conversation_id) as there:
        yield here, there


async def let(replicas: Replicas, watchers: list[Watcher], count: int) -> None:
    """So many pieces more, each seen by all before the next is said."""
    seen = len(watchers[0].told(MessageDelta))
    for number in range(seen + 1, seen + count + 1):
        replicas.model.let()
        for watcher in watchers:
            await watcher.until(lambda told=watcher, least=number: len(told.told(MessageDelta)) >= least)


async def finish(replicas: Replicas, watchers: list[Watcher], conversation_id: str) -> None:
    """To the end, where all have seen the log, and nothing twice."""
    for _ in range(50):
        replicas.model.let()
    for watcher in watchers:
        await watcher.until(lambda told=watcher: MessageType.ASSISTANT in finished(told))
    stored = await replicas.here.stored(conversation_id)
    for watcher in watchers:
        await watcher.reached(stored[-1].sequence)
        shown = [item for item in watcher.items if item.sequence > item.previous_sequence]
        assert [(item.sequence, item.payload) for item in shown if isinstance(item.payload, MessageDelta)] == [
            (event.sequence, event.payload) for event in stored if isinstance(event.payload, MessageDelta)
        ]
        assert [item.sequence for item in shown] == [event.sequence for event in stored]


def finished(watcher: Watcher) -> list[MessageType]:
    return [message.type for message in watcher.client.state().finished().values()]


async def test_what_is_sent_to_one_replica_is_seen_on_the_other(database: Database, server: RedisServer) -> None:
    async with replicas(database, server) as both:
        conversation = await both.here.conversation()
        async with audiences(both, conversation.id) as (here, there):
            watchers = [here.watch(), there.watch()]
            for watcher in watchers:
                await watcher.caught_up()
            await both.here.say(conversation.id, MANY_WORDS)
            await let(both, watchers, 3)
            await finish(both, watchers, conversation.id)


async def test_a_redis_that_is_restarted_in_the_middle_of_an_answer_costs_nobody_an_event(database: Database, server: RedisServer) -> None:
    async with replicas(database, server, HubLimits(doubt_check_s=0.1)) as both:
        conversation = await both.here.conversation()
        async with audiences(both, conversation.id) as (here, there):
            watchers = [here.watch(), there.watch()]
            for watcher in watchers:
                await watcher.caught_up()
            await both.here.say(conversation.id, MANY_WORDS)
            await let(both, watchers, 2)
            server.stop()
            await let(both, watchers, 2)
            server.start()
            await let(both, watchers, 2)
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            server.ask("FLUSHALL")
            await finish(both, watchers, conversation.id)


async def test_without_redis_sends_runs_joins_and_resumes_go_on_a_little_later(database: Database, server: RedisServer) -> None:
    async with replicas(database, server) as both:
        conversation = await both.here.conversation()
        server.stop()
        loop = asyncio.get_running_loop()
        async with audiences(both, conversation.id) as (here, there):
            began = loop.time()
            watchers = [here.watch(), there.watch()]
            for watcher in watchers:
                await watcher.caught_up()
            assert 0.9 < loop.time() - began < DEADLINE_S, "a join waits a second for the bus"
            await both.here.say(conversation.id, MANY_WORDS)
            await let(both, watchers, 2)
            began = loop.time()
            watchers.append(there.watch(DeltaMode.ALL, client=watchers[0].client.reconnected()))
            await watchers[-1].caught_up()
            assert loop.time() - began < 0.9, "only the first of a topic does"
            await finish(both, watchers[:2], conversation.id)
            await watchers[2].reached(watchers[0].client.position)
            assert watchers[2].client.state() == watchers[0].client.state()
        assert not any(bus.status().connected for bus in both.buses)


async def test_flushing_redis_between_any_two_words_never_yields_a_hole(database: Database, server: RedisServer) -> None:
    """Everything that an operator may throw away, and the lines of all who listen, at once with a word on its way."""
    async with replicas(database, server, HubLimits(doubt_check_s=0.05)) as both:
        conversation = await both.here.conversation()
        async with audiences(both, conversation.id) as (here, there):
            watchers = [here.watch(), there.watch(), there.watch(DeltaMode.ALL)]
            for watcher in watchers:
                await watcher.caught_up()
            await both.here.say(conversation.id, MANY_WORDS)
            for flush in (("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("CLIENT", "KILL", "TYPE", "pubsub")) * 2:
                both.model.let()
                assert not server.ask(*flush).startswith(b"-")
                await let(both, watchers, 0)
            await finish(both, watchers, conversation.id)
