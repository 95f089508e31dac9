"""What every bus does, whatever carries it: the contract in `streams/bus.py`."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.bus import Announcement, Bus, list_topic
from tests.db.rows import NOON, a_conversation, a_message
from tests.streams.buses import DEADLINE_S, Ear, ListEar
from vocabulary.events import Event, MessageCompleted, MessageDelta
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind
from vocabulary.messages import MessageType


def event(topic: str, sequence: int) -> Event:
    return Event(topic, sequence, NOON, "run-1", MessageDelta("message-1", MessageType.ASSISTANT, sequence, "🚀"))


def events(topic: str, *sequences: int) -> list[Event]:
    return [event(topic, sequence) for sequence in sequences]


@pytest.fixture
def ear(any_bus: Bus) -> Ear:
    listening = Ear()
    any_bus.listen(listening)
    return listening


async def attach(bus: Bus, *topics: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*map(bus.attach, topics))


async def test_what_is_published_after_an_attachment_is_heard_whole(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-1")
    assert any_bus.is_attached("conv-1")
    published = [event("conv-1", 1), Event("conv-1", 2, NOON, None, MessageCompleted(a_message("conv-1", text="whole")))]
    any_bus.publish(published)
    await ear.hears("conv-1", 2)
    assert ear.heard_of == {"conv-1": [Announcement("conv-1", sequence, event) for sequence, event in enumerate(published, start=1)]}
    assert ear.doubted == []


async def test_each_topic_is_heard_in_the_order_of_publishing(any_bus: Bus, ear: Ear) -> None:
    topics = ["conv-1", "conv-2", "conv-3"]
    await attach(any_bus, *topics)
    for sequence in range(1, 501):
        any_bus.publish([event(topic, sequence) for topic in topics])
    for topic in topics:
        await ear.hears(topic, 500)
        assert ear.numbers(topic) == list(range(1, 501))


async def test_nothing_is_heard_of_what_is_not_attached(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-2")
    assert not any_bus.is_attached("conv-1")
    any_bus.publish([*events("conv-1", 1, 2), *events("conv-2", 1)])
    await ear.hears("conv-2", 1)
    assert ear.numbers("conv-1") == []


async def test_publishing_does_not_fail_when_nobody_listens(any_bus: Bus) -> None:
    any_bus.publish(events("conv-1", 1, 2))
    await attach(any_bus, "conv-1")
    any_bus.publish(events("conv-1", 3))


async def test_to_attach_twice_is_to_attach_once(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-1", "conv-1")
    await attach(any_bus, "conv-1")
    any_bus.publish(events("conv-1", 1, 2))
    await ear.hears("conv-1", 2)
    assert ear.numbers("conv-1") == [1, 2]
    any_bus.detach("conv-1")
    assert not any_bus.is_attached("conv-1")


async def test_what_is_announced_twice_is_heard_twice(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-1")
    any_bus.publish(events("conv-1", 1, 1, 2))
    await ear.hears("conv-1", 2)
    assert ear.numbers("conv-1") == [1, 1, 2]


async def test_after_detaching_nothing_more_is_heard_and_the_others_still_are(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-1", "conv-2")
    any_bus.detach("conv-1")
    any_bus.detach("conv-1")
    any_bus.detach("never attached")
    any_bus.publish([*events("conv-1", 1), *events("conv-2", 1)])
    await ear.hears("conv-2", 1)
    assert ear.numbers("conv-1") == []


async def test_many_may_attach_at_the_same_time(any_bus: Bus, ear: Ear) -> None:
    topics = [f"conv-{number}" for number in range(1200)]
    await attach(any_bus, *topics)
    any_bus.publish([event(topic, 1) for topic in topics])
    await ear.until(lambda: len(ear.heard_of) == len(topics))
    assert all(ear.numbers(topic) == [1] for topic in topics)


async def test_an_attachment_begun_during_a_detachment_holds(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-1")
    for sequence in range(1, 51):
        any_bus.detach("conv-1")
        if sequence % 2:
            await asyncio.sleep(0)  # what detaching begins has begun
        await attach(any_bus, "conv-1")
        any_bus.publish(events("conv-1", sequence))
        await ear.hears("conv-1", sequence)
    assert ear.numbers("conv-1") == list(range(1, 51))


TOPICS = ["conv-1", "conv-2", "conv-3"]
Move = tuple[str, str]
moves = st.lists(st.tuples(st.sampled_from(["attach", "detach", "give up", "go on"]), st.sampled_from(TOPICS)), max_size=25)


@given(moves=moves)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_was_begun_and_given_up_before_what_is_attached_is_heard(any_bus: Bus, ear: Ear, moves: Sequence[Move]) -> None:
    attaching: dict[str, asyncio.Task[None]] = {}
    for move, topic in moves:
        if move == "attach":
            attaching.setdefault(topic, asyncio.create_task(any_bus.attach(topic)))
        elif move == "go on":
            await asyncio.sleep(0)
        elif task := attaching.pop(topic, None):
            task.cancel()
            await asyncio.wait([task])
        if move == "detach":
            any_bus.detach(topic)
    await attach(any_bus, *TOPICS)
    await asyncio.gather(*attaching.values())
    ear.heard_of.clear()
    any_bus.publish([event(topic, 1) for topic in TOPICS])
    for topic in TOPICS:
        await ear.hears(topic, 1)
        any_bus.detach(topic)
    assert all(ear.numbers(topic) == [1] for topic in TOPICS)


async def test_its_status_counts_what_went_through(any_bus: Bus, ear: Ear) -> None:
    await attach(any_bus, "conv-1")
    any_bus.publish([*events("conv-1", 1, 2), *events("conv-2", 1)])
    await ear.hears("conv-1", 2)
    async with asyncio.timeout(DEADLINE_S):
        while any_bus.status().published < 3:  # noqa: ASYNC110 - what is heard may be heard before its sender knows
            await asyncio.sleep(0)
    status = any_bus.status()
    assert (status.connected, status.published, status.dropped, status.received, status.reconnects) == (True, 3, 0, 2, 0)


# ---- signals


class Inbox:
    """What one recipient was told."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, subject: str) -> None:
        self._told.put_nowait(subject)

    async def next(self) -> str:
        async with asyncio.timeout(DEADLINE_S):
            return await self._told.get()

    @property
    def empty(self) -> bool:
        return self._told.empty()


async def test_a_signal_reaches_its_recipient_and_nobody_else(any_bus: Bus, ear: Ear) -> None:
    mine, others = Inbox(), Inbox()
    any_bus.heed("worker-1", mine)
    any_bus.heed("worker-2", others)
    await attach(any_bus, "worker-1", "worker-2")  # certain now, not only soon
    any_bus.signal("worker-1", "run-1")
    any_bus.signal("worker-3", "run-lost")
    any_bus.signal("worker-1", "run-2")
    any_bus.signal("worker-2", "run-3")
    assert [await mine.next(), await mine.next(), await others.next()] == ["run-1", "run-2", "run-3"]
    assert (ear.heard_of, ear.doubted) == ({}, [])


async def test_who_heeds_no_more_is_told_nothing(any_bus: Bus, ear: Ear) -> None:  # noqa: ARG001
    gone, there = Inbox(), Inbox()
    any_bus.heed("worker-1", gone)
    any_bus.heed("worker-2", there)
    await attach(any_bus, "worker-1", "worker-2")
    any_bus.unheed("worker-1")
    any_bus.signal("worker-1", "run-1")
    any_bus.signal("worker-2", "run-2")
    assert await there.next() == "run-2"
    assert gone.empty


# ---- lists


async def test_changes_of_a_list_are_heard_by_who_listens_to_lists_and_by_nobody_else(any_bus: Bus, ear: Ear) -> None:
    lists = ListEar()
    any_bus.listen_to_lists(lists)
    await attach(any_bus, list_topic("one"), "conv-1")
    ours, theirs = a_conversation("agent-1", tenant="one"), a_conversation("agent-1", tenant="two")
    changes = [ListChange.of(kind, ours, version) for version, kind in enumerate(ListChangeKind, start=1)]
    any_bus.publish(
        events("conv-1", 1), [*changes, ListChange.of(ListChangeKind.CREATED, theirs, 1), ListCaughtUp("two"), ListCaughtUp("one")]
    )
    await lists.until(lambda: len(lists.items) == 4)
    await ear.hears("conv-1", 1)
    assert lists.items == [*changes, ListCaughtUp("one")]
    assert (ear.numbers("conv-1"), ear.doubted, lists.doubted) == ([1], [], [])
    any_bus.detach(list_topic("one"))
    assert not any_bus.is_attached(list_topic("one"))
