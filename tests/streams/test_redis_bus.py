"""What only happens to a bus whose server may be restarted, frozen, flushed, or never come: it says so, and mends itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace

import pytest
import pytest_asyncio

from cluster.redis import RedisServer
from streams.bus import Announcement, list_topic
from streams.redis_bus import RedisBus
from streams.redis_line import RedisLimits
from tests.db.rows import NOON, a_message
from tests.streams.buses import DEADLINE_S, Ear, ListEar, redis_bus, running
from vocabulary.events import Event, MessageCompleted, MessageDelta
from vocabulary.messages import MessageType

QUICK = RedisLimits(timeout_s=5.0, ping_s=0.05, silence_s=5.0, longest_backoff_s=0.1)


def event(sequence: int, text: str = "🚀", topic: str = "conv-1") -> Event:
    return Event(topic, sequence, NOON, None, MessageDelta("message-1", MessageType.ASSISTANT, sequence, text))


@pytest_asyncio.fixture
async def bus(server: RedisServer) -> AsyncGenerator[RedisBus]:
    async with running(redis_bus(server.url, limits=QUICK)) as started:
        yield started


@pytest.fixture
def ear(bus: RedisBus) -> Ear:
    listening = Ear()
    bus.listen(listening)
    return listening


async def attach(bus: RedisBus, *topics: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*map(bus.attach, topics))


async def test_a_server_that_is_restarted_is_doubted_and_heard_again(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1", "conv-2")
    assert (bus.status().connected, ear.doubted) == (True, [])
    server.stop()
    await ear.until(lambda: sorted(ear.doubted) == ["conv-1", "conv-2"])
    assert not bus.is_attached("conv-1")
    assert not bus.status().connected
    ear.doubted.clear()
    server.start()
    await ear.until(lambda: sorted(ear.doubted) == ["conv-1", "conv-2"])
    assert bus.is_attached("conv-1")
    bus.publish([event(1), event(1, topic="conv-2")])
    await ear.hears("conv-1", 1)
    await ear.hears("conv-2", 1)
    assert (bus.status().connected, bus.status().reconnects) == (True, 1)


async def test_what_is_detached_while_the_server_is_away_is_not_attached_when_it_is_back(
    server: RedisServer, bus: RedisBus, ear: Ear
) -> None:
    await attach(bus, "conv-1", "conv-2")
    server.stop()
    await ear.until(lambda: len(ear.doubted) == 2)
    bus.detach("conv-2")
    ear.doubted.clear()
    server.start()
    await ear.until(lambda: ear.doubted == ["conv-1"])
    assert b":0\r\n" in server.ask("PUBSUB", "NUMSUB", f"{bus.prefix}conv-2")
    assert b":1\r\n" in server.ask("PUBSUB", "NUMSUB", f"{bus.prefix}conv-1")


async def test_an_attachment_waits_for_a_server_that_is_not_there_yet(server: RedisServer) -> None:
    server.stop()
    async with running(redis_bus(server.url, limits=QUICK)) as bus:
        ear = Ear()
        bus.listen(ear)
        waiting = asyncio.create_task(bus.attach("conv-1"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bus.attach("conv-2")
        assert not bus.status().connected
        server.start()
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        await ear.until(lambda: bus.is_attached("conv-2"))
        assert ear.doubted == ["conv-2"], "nobody waited any more: who went on without it must read again"


@pytest.mark.parametrize("clustered", [False, True], ids=["server", "cluster"])
@pytest.mark.parametrize(
    "option", ["protocol=3", "decode_responses=true", "socket_timeout=1&socket_connect_timeout=1&health_check_interval=1"]
)
async def test_options_in_the_address_do_not_change_how_answers_are_read(
    option: str, clustered: bool, server: RedisServer, cluster: RedisServer
) -> None:
    address = f"{(cluster if clustered else server).url}?{option}"
    async with running(redis_bus(address, cluster=clustered, limits=QUICK)) as bus:
        ear = Ear()
        bus.listen(ear)
        await attach(bus, "conv-1")
        bus.publish([event(1)])
        await ear.hears("conv-1", 1)
        assert (bus.status().connected, bus.status().reconnects) == (True, 0)


async def test_a_server_whose_answers_are_not_understood_is_never_connected() -> None:
    asked, connected = asyncio.Queue[None](), list[bool]()

    async def say_something_else(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(None)
        with suppress(ConnectionError):
            while await reader.read(1024):
                connected.append(bus.status().connected)
                writer.write(b"+WELL\r\n" * 3)
        writer.close()

    async with await asyncio.start_server(say_something_else, "127.0.0.1", 0) as nearly_redis:
        address = f"redis://127.0.0.1:{nearly_redis.sockets[0].getsockname()[1]}"
        async with running(redis_bus(address, limits=replace(QUICK, silence_s=0.3))) as bus:
            async with asyncio.timeout(DEADLINE_S):
                for _ in range(3):
                    await asked.get()
            assert connected
            assert not any(connected)


async def test_what_is_published_while_the_server_is_away_is_sent_when_it_is_back(server: RedisServer, bus: RedisBus) -> None:
    server.stop()
    bus.publish([event(sequence) for sequence in range(1, 101)])
    async with running(redis_bus(server.url, limits=QUICK, prefix=bus.prefix)) as other:
        ear = Ear()
        other.listen(ear)
        server.start()
        await attach(other, "conv-1")
        bus.publish([event(101)])
        await ear.hears("conv-1", 101)
        assert ear.numbers("conv-1") == sorted(ear.numbers("conv-1"))
    assert (bus.status().published, bus.status().dropped) == (101, 0)


async def test_while_the_server_is_away_the_newest_is_kept_up_to_a_bound(server: RedisServer) -> None:
    server.stop()
    async with running(redis_bus(server.url, limits=replace(QUICK, queue_bytes=100_000, batch=10))) as bus:
        ear = Ear()
        bus.listen(ear)
        waiting = asyncio.create_task(bus.attach("conv-1"))
        bus.publish([event(sequence, "x" * 1000) for sequence in range(1, 1001)])
        assert 900 <= bus.status().dropped < 1000
        server.start()
        await waiting
        bus.publish([event(1001)])
        await ear.hears("conv-1", 1001)


async def test_a_subscriber_that_the_server_cuts_off_is_doubted_and_heard_again(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await ear.until(lambda: ear.doubted == ["conv-1", "conv-1"])  # when it was lost, and when it was there again
    bus.publish([event(1)])
    await ear.hears("conv-1", 1)


async def test_a_publisher_that_the_server_cuts_off_loses_nothing(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    for sequence in range(1, 21):
        bus.publish([event(sequence)])
        await ear.hears("conv-1", sequence)
        server.ask("CLIENT", "KILL", "TYPE", "normal")
    assert ear.doubted == []


async def test_a_server_that_pauses_delays_and_loses_nothing(server: RedisServer) -> None:
    async with running(redis_bus(server.url)) as bus:
        ear = Ear()
        bus.listen(ear)
        await attach(bus, "conv-1")
        server.ask("CLIENT", "PAUSE", "2000")
        bus.publish([event(sequence) for sequence in range(1, 101)])
        await ear.hears("conv-1", 100)
        assert sorted(set(ear.numbers("conv-1"))) == list(range(1, 101))
        assert bus.is_attached("conv-1")
        assert ear.doubted == []


async def test_a_server_that_is_flushed_loses_nothing(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    bus.publish([event(1)])
    server.ask("FLUSHALL")
    bus.publish([event(2)])
    await ear.hears("conv-1", 2)
    assert (ear.numbers("conv-1"), ear.doubted) == ([1, 2], [])


async def test_a_server_that_says_nothing_any_more_is_noticed(server: RedisServer) -> None:
    async with running(redis_bus(server.url, limits=replace(QUICK, silence_s=1))) as bus:
        ear = Ear()
        bus.listen(ear)
        await attach(bus, "conv-1")
        server.freeze()
        try:
            await ear.until(lambda: ear.doubted == ["conv-1"])
            assert not bus.is_attached("conv-1")
        finally:
            server.thaw()
        await ear.until(lambda: ear.doubted == ["conv-1", "conv-1"])
        assert bus.is_attached("conv-1")


async def test_what_is_too_large_arrives_as_its_number(bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    large = Event("conv-1", 1, NOON, None, MessageCompleted(a_message("conv-1", text="x" * 65_536)))
    bus.publish([large, event(2)])
    await ear.hears("conv-1", 2)
    assert ear.heard_of["conv-1"] == [Announcement("conv-1", 1, None), Announcement("conv-1", 2, event(2))]


async def test_what_cannot_be_read_at_all_is_a_doubt(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    server.ask("PUBLISH", f"{bus.prefix}conv-1", "?")
    await ear.until(lambda: ear.doubted == ["conv-1"])
    assert ear.numbers("conv-1") == []


async def test_what_was_committed_last_is_announced_before_a_bus_ends(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    async with running(redis_bus(server.url, prefix=bus.prefix)) as leaving:
        await attach(leaving, "conv-2")
        leaving.publish([event(1)])
    await ear.hears("conv-1", 1)


async def test_channels_carry_their_prefix_and_other_prefixes_are_not_heard(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    await attach(bus, "conv-1")
    async with running(redis_bus(server.url)) as other:
        other.publish([event(1)])
    bus.publish([event(2)])
    await ear.hears("conv-1", 2)
    assert ear.numbers("conv-1") == [2]


async def test_one_connection_hears_all_topics(server: RedisServer, bus: RedisBus) -> None:
    await attach(bus, *(f"conv-{number}" for number in range(100)))
    assert server.ask("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=") == 1


async def test_a_cluster_whose_slots_go_and_come_is_doubted_and_heard_again() -> None:
    with RedisServer.running(cluster=True) as server:
        server.form_cluster()
        async with running(redis_bus(server.url, cluster=True, limits=QUICK)) as bus:
            ear = Ear()
            bus.listen(ear)
            await attach(bus, "conv-1", "conv-2")
            server.ask("CLUSTER", "DELSLOTSRANGE", "0", "16383")
            await ear.until(lambda: {*ear.doubted} == {"conv-1", "conv-2"})
            assert not bus.is_attached("conv-1")
            server.form_cluster()
            await ear.until(lambda: bus.is_attached("conv-1") and bus.is_attached("conv-2"))
            bus.publish([event(1)])
            await ear.hears("conv-1", 1)


async def test_a_list_is_doubted_when_what_was_said_of_it_cannot_be_read(server: RedisServer, bus: RedisBus, ear: Ear) -> None:
    lists = ListEar()
    bus.listen_to_lists(lists)
    await attach(bus, list_topic("one"), "conv-1")
    for said in ("nonsense", '{"kind": "NEW"}', "[1]", "7"):
        server.ask("PUBLISH", f"{bus.prefix}{list_topic('one')}", said)
    await lists.until(lambda: len(lists.doubted) == 4)
    assert (set(lists.doubted), lists.items, ear.doubted) == ({"one"}, [], [])
