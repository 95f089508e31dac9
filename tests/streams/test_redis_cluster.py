"""Sharded pub/sub on three nodes: each topic is heard on the node that holds it, and one that is away takes only its own with it."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import pytest
import pytest_asyncio
from redis.crc import key_slot

from streams.redis_bus import RedisBus
from streams.redis_line import RedisLimits
from tests.db.rows import NOON
from tests.streams.buses import DEADLINE_S, Ear, redis_bus, running
from tests.streams.three_nodes import ThreeNodes, three_nodes
from vocabulary.events import Event, MessageDelta
from vocabulary.messages import MessageType

QUICK = RedisLimits(timeout_s=5.0, ping_s=0.05, silence_s=5.0, longest_backoff_s=0.1)
TOPICS = [f"conv-{number}" for number in range(30)]


def event(topic: str, sequence: int) -> Event:
    return Event(topic, sequence, NOON, None, MessageDelta("message-1", MessageType.ASSISTANT, sequence, "🚀"))


@pytest.fixture
def nodes() -> Generator[ThreeNodes]:
    with three_nodes() as cluster:
        yield cluster


@pytest_asyncio.fixture
async def speaker(nodes: ThreeNodes) -> AsyncGenerator[RedisBus]:
    async with running(redis_bus(nodes.url, cluster=True, limits=QUICK)) as started:
        yield started


@pytest_asyncio.fixture
async def listener(nodes: ThreeNodes, speaker: RedisBus) -> AsyncGenerator[RedisBus]:
    """Of another process than the one that speaks."""
    async with running(redis_bus(nodes.url, cluster=True, limits=QUICK, prefix=speaker.prefix)) as started:
        yield started


@pytest.fixture
def ear(listener: RedisBus) -> Ear:
    listening = Ear()
    listener.listen(listening)
    return listening


async def attach_all(bus: RedisBus) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*map(bus.attach, TOPICS))


async def test_topics_are_spread_over_the_nodes_and_all_are_heard(
    nodes: ThreeNodes, speaker: RedisBus, listener: RedisBus, ear: Ear
) -> None:
    await attach_all(listener)
    speaker.publish([event(topic, number) for number in (1, 2, 3) for topic in TOPICS])
    for topic in TOPICS:
        await ear.hears(topic, 3)
        assert ear.numbers(topic) == [1, 2, 3]
    for node in nodes.nodes:
        held = [topic for topic in TOPICS if nodes.holder(speaker.prefix + topic) is node]
        assert held
        assert node.ask("PUBSUB", "SHARDCHANNELS").count(speaker.prefix.encode()) == len(held)


async def test_a_node_that_is_away_costs_the_topics_of_others_nothing(
    nodes: ThreeNodes, speaker: RedisBus, listener: RedisBus, ear: Ear
) -> None:
    await attach_all(listener)
    away = nodes.nodes[2]
    lost = {topic for topic in TOPICS if nodes.holder(speaker.prefix + topic) is away}
    kept = [topic for topic in TOPICS if topic not in lost]
    away.stop()
    await ear.until(lambda: {*ear.doubted} >= lost)
    assert not any(listener.is_attached(topic) for topic in lost)
    assert not listener.status().connected
    speaker.publish([event(topic, 1) for topic in TOPICS])
    for topic in kept:
        await ear.hears(topic, 1)
    speaker.publish([event(topic, 2) for topic in TOPICS])
    for topic in kept:
        await ear.hears(topic, 2)
        assert ear.numbers(topic) == [1, 2]
    ear.doubted.clear()
    away.start()
    await ear.until(lambda: {*ear.doubted} >= lost and all(map(listener.is_attached, TOPICS)))
    speaker.publish([event(topic, 3) for topic in TOPICS])
    for topic in TOPICS:
        await ear.hears(topic, 3)


async def test_a_node_that_was_given_up_while_it_was_away_is_forgotten(
    nodes: ThreeNodes, speaker: RedisBus, listener: RedisBus, ear: Ear
) -> None:
    await attach_all(listener)
    given_up, *others = reversed(nodes.nodes)
    lost = {topic for topic in TOPICS if nodes.holder(speaker.prefix + topic) is given_up}
    name = given_up.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()
    given_up.stop()
    speaker.publish([event(topic, 1) for topic in TOPICS])
    await ear.until(lambda: {*ear.doubted} >= lost)
    for node in others:
        assert node.ask("CLUSTER", "DELSLOTSRANGE", "10923", "16383") == b"+OK\r\n"
        assert node.ask("CLUSTER", "FORGET", name) == b"+OK\r\n"
    assert others[0].ask("CLUSTER", "ADDSLOTSRANGE", "10923", "16383") == b"+OK\r\n"
    await ear.until(lambda: all(map(listener.is_attached, TOPICS)))
    speaker.publish([event(topic, 2) for topic in TOPICS])
    for topic in TOPICS:
        await ear.hears(topic, 2)
    assert speaker.status().connected


async def test_a_slot_that_nobody_serves_costs_the_topics_of_others_nothing(
    nodes: ThreeNodes, speaker: RedisBus, listener: RedisBus, ear: Ear
) -> None:
    await attach_all(listener)
    lost, *kept = TOPICS
    slot = str(key_slot((speaker.prefix + lost).encode()))
    holder = nodes.holder(speaker.prefix + lost)
    for node in nodes.nodes:
        assert node.ask("CLUSTER", "DELSLOTS", slot) == b"+OK\r\n"
    await ear.until(lambda: lost in ear.doubted and all(map(listener.is_attached, kept)))
    speaker.publish([event(topic, 1) for topic in TOPICS])
    for topic in kept:
        await ear.hears(topic, 1)
    assert not listener.is_attached(lost)
    assert not listener.status().connected
    assert holder.ask("CLUSTER", "ADDSLOTS", slot) == b"+OK\r\n"
    await ear.until(lambda: listener.is_attached(lost))
    speaker.publish([event(lost, 2)])
    await ear.hears(lost, 2)


async def test_who_comes_while_nobody_serves_a_slot_hears_what_the_others_serve(nodes: ThreeNodes, speaker: RedisBus) -> None:
    lost, *kept = TOPICS
    slot = str(key_slot((speaker.prefix + lost).encode()))
    for node in nodes.nodes:
        assert node.ask("CLUSTER", "DELSLOTS", slot) == b"+OK\r\n"
    async with running(redis_bus(nodes.url, cluster=True, limits=QUICK, prefix=speaker.prefix)) as newcomer, asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*map(newcomer.attach, kept))
