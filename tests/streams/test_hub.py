"""One topic for all who follow a conversation: its shared tail, the holes it fills, the head check, and how long it stays."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from db.engine import Database
from streams.bus import Announcement, Listener, MemoryBus
from streams.hub import HubLimits
from tests.db.failing import FailingDatabase
from tests.db.statements import statements
from tests.rig import collect
from tests.streams.buses import HeldBus
from tests.streams.client import Client
from tests.streams.telling import Teller
from tests.streams.watching import DEADLINE_S, Audience, Process, Watcher, audience, process
from vocabulary.events import CaughtUp, DeltaMode, MessageCompleted


class CountingBus(MemoryBus):
    """Tells which topics were attached and detached."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    async def attach(self, topic: str) -> None:
        self.calls.append(("attach", topic))
        await super().attach(topic)

    def detach(self, topic: str) -> None:
        self.calls.append(("detach", topic))
        super().detach(topic)


class AwayBus(HeldBus):
    """Goes away and comes back when a test says so, as Redis does by itself. It begins away."""

    def __init__(self) -> None:
        super().__init__()
        self.there = asyncio.Event()
        self.asked = asyncio.Event()
        self.asked_for: list[str] = []

    def listen(self, listener: Listener) -> None:
        self._told = listener
        super().listen(listener)

    async def attach(self, topic: str) -> None:
        self.asked_for.append(topic)
        self.asked.set()
        await self.there.wait()
        await super().attach(topic)

    async def come_back(self) -> None:
        self.there.set()
        for topic in self.asked_for:
            await super().attach(topic)
        self._told.doubt(self.asked_for)

    def go_away(self) -> None:
        self.there.clear()
        for topic in self.asked_for:
            super().detach(topic)
        self._told.doubt(self.asked_for)


def text_of(client: Client) -> str:
    [message] = client.messages.values()
    return message.text


# ---- a slow subscriber


@pytest.mark.parametrize("mode", DeltaMode)
async def test_who_falls_off_the_tail_sees_the_same_text_in_the_end(database: Database, mode: DeltaMode) -> None:
    async with process(database, limits=HubLimits(tail_events=4)) as here:
        teller = await here.teller()
        slow, client = here.reader.follow(teller.conversation_id, after=0, mode=mode), Client()
        client.take(await anext(slow))
        await teller.start()
        client.take(await anext(slow))
        for _ in range(10):
            await teller.grow("🚀🪐")
        if mode is not DeltaMode.NONE:
            client.take(await anext(slow))
        for _ in range(10):
            await teller.grow("…")
        await teller.finish()
        for item in await collect(slow, lambda item: isinstance(item.payload, MessageCompleted)):
            client.take(item)
        assert text_of(client) == "🚀🪐" * 10 + "…" * 10
        assert client.position == 22


async def test_who_falls_off_the_tail_gets_what_it_missed_in_one_piece(database: Database) -> None:
    async with process(database, limits=HubLimits(tail_events=4)) as here:
        teller = await here.teller()
        slow, client = here.reader.follow(teller.conversation_id, after=0, mode=DeltaMode.COALESCED), Client()
        client.take(await anext(slow))
        await teller.start()
        client.take(await anext(slow))
        for _ in range(20):
            await teller.grow("🚀")
        item = await anext(slow)
        client.take(item)
        assert (item.sequence, item.previous_sequence) == (21, 1)
        assert text_of(client) == "🚀" * 20
        await teller.grow("!")
        client.take(await anext(slow))
        assert text_of(client) == "🚀" * 20 + "!"
        await slow.aclose()


# ---- one topic, many subscribers


async def test_all_who_follow_a_conversation_share_one_attachment(database: Database) -> None:
    bus = CountingBus()
    async with process(database, bus) as here:
        teller, other = await here.teller(), await here.teller()
        async with audience(here.reader, teller.conversation_id) as people, audience(here.reader, other.conversation_id) as others:
            watchers = [people.watch() for _ in range(20)] + [others.watch()]
            for watcher in watchers:
                await watcher.caught_up()
            assert sorted(bus.calls) == sorted([("attach", teller.conversation_id), ("attach", other.conversation_id)])
            await teller.say("to all of them")
            await other.say("to one")
            for watcher in watchers:
                await watcher.reached(1)
            assert [text_of(watcher.client) for watcher in watchers] == ["to all of them"] * 20 + ["to one"]


async def live(people: Audience, count: int) -> list[Watcher]:
    watchers = [people.watch() for _ in range(count)]
    for watcher in watchers:
        await watcher.caught_up()
    return watchers


async def test_a_live_event_costs_no_statement_however_many_follow(database: Database) -> None:
    bus = HeldBus()
    async with process(database, bus) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watchers = await live(people, 20)
            await teller.say("hello")
            with statements() as asked:
                bus.arrive(1)
                for watcher in watchers:
                    await watcher.reached(1)
            assert asked == []


async def test_a_hole_is_filled_once_for_all(database: Database) -> None:
    bus = HeldBus()
    async with process(database, bus) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watchers = await live(people, 20)
            for text in ("lost", "lost too", "heard", "heard too"):
                await teller.say(text)
            with statements() as asked:
                bus.arrive(3)
                bus.arrive(4)
                for watcher in watchers:
                    await watcher.reached(4)
            assert len(asked) == 1
            assert all(len(watcher.client.messages) == 4 for watcher in watchers)


async def test_joining_and_leaving_at_any_time_disturbs_nobody(database: Database) -> None:
    """Watchers come and go while every third announcement is lost; the client asserts that each sees all, in order."""
    bus = HeldBus()
    async with process(database, bus, limits=HubLimits(tail_events=3, concurrent_reads=2)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            [witness] = await live(people, 1)
            staying: list[Watcher] = []
            for number in range(1, 31):
                coming = [people.watch(mode, after=after) for mode in DeltaMode for after in (0, number // 2)]
                await teller.say(str(number))
                if number % 3:
                    bus.arrive(number)
                staying += coming[::2]
                for leaving in coming[1::2]:
                    await people.leave(leaving)
            await here.hub.check_heads()
            for watcher in [witness, *staying]:
                await watcher.reached(30)
            assert [message.text for message in witness.client.messages.values()] == [str(number) for number in range(1, 31)]


# ---- what was lost with nothing after it


@asynccontextmanager
async def audiences(here: Process, tellers: Sequence[Teller], count: int) -> AsyncGenerator[list[list[Watcher]]]:
    async with AsyncExitStack() as stack:
        rooms = [await stack.enter_async_context(audience(here.reader, teller.conversation_id)) for teller in tellers]
        yield [await live(people, count) for people in rooms]


async def test_the_head_check_is_one_query_for_all_topics_and_all_who_follow_them(database: Database) -> None:
    async with process(database, HeldBus()) as here:
        tellers = [await here.teller() for _ in range(5)]
        async with audiences(here, tellers, 3):
            with statements() as asked:
                await here.hub.check_heads()
            assert len(asked) == 1


async def test_the_head_check_finds_what_was_lost_with_nothing_after_it(database: Database) -> None:
    async with process(database, HeldBus()) as here:
        tellers = [await here.teller() for _ in range(3)]
        async with audiences(here, tellers, 2) as rooms:
            for teller in tellers[:2]:
                await teller.say("lost")
            with statements() as asked:
                await here.hub.check_heads()
                for watcher in [*rooms[0], *rooms[1]]:
                    await watcher.reached(1)
            assert len(asked) == 1 + 2, "the check, and one read for each topic that was behind"
            assert [watcher.client.position for watcher in rooms[2]] == [0, 0]


async def test_the_head_check_comes_by_itself(database: Database) -> None:
    async with process(database, HeldBus(), limits=HubLimits(head_check_s=0.01)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            [watcher] = await live(people, 1)
            await teller.say("lost")
            await watcher.reached(1)


async def test_what_nobody_follows_is_not_checked(database: Database) -> None:
    async with process(database) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            await live(people, 2)
        with statements() as asked:
            await here.hub.check_heads()
        assert asked == []


# ---- a database that is away


@pytest.fixture
async def failing(database_url: str) -> AsyncGenerator[FailingDatabase]:
    database = FailingDatabase.open(database_url)
    database.recovered = asyncio.Event()
    yield database
    await database.close()


async def test_a_hole_that_could_not_be_filled_is_filled_by_the_next_check(failing: FailingDatabase) -> None:
    bus = HeldBus()
    async with process(failing, bus, limits=HubLimits(doubt_check_s=0.01)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watchers = await live(people, 3)
            await teller.say("lost")
            await teller.say("heard")
            failing.failures = 1
            bus.arrive(2)
            await failing.recovered.wait()
            assert [watcher.client.position for watcher in watchers] == [0, 0, 0]
            await here.hub.check_heads()
            for watcher in watchers:
                await watcher.reached(2)


async def test_the_head_check_goes_on_when_the_database_was_away(failing: FailingDatabase) -> None:
    async with process(failing, HeldBus(), limits=HubLimits(head_check_s=0.01)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            [watcher] = await live(people, 1)
            failing.failures = 3
            await teller.say("lost")
            await watcher.reached(1)
            assert failing.recovered.is_set()


async def test_a_join_waits_for_a_database_that_is_away(failing: FailingDatabase) -> None:
    async with process(failing, limits=HubLimits(doubt_check_s=0.01)) as here:
        teller = await here.teller()
        await teller.say("hello")
        for failures in (1, 2, 3, 7):
            failing.failures = failures
            async with aclosing(here.reader.follow(teller.conversation_id, after=0, mode=DeltaMode.ALL)) as follow:
                assert [(await anext(follow)).sequence for _ in range(2)] == [1, 1]
            assert not failing.failures


async def test_who_fell_off_the_tail_waits_for_a_database_that_is_away(failing: FailingDatabase) -> None:
    async with process(failing, limits=HubLimits(tail_events=2, doubt_check_s=0.01)) as here:
        teller = await here.teller()
        async with aclosing(here.reader.follow(teller.conversation_id, after=0, mode=DeltaMode.ALL)) as slow:
            assert isinstance((await anext(slow)).payload, CaughtUp)
            for text in "abcde":
                await teller.say(text)
            failing.failures = 3
            assert [(await anext(slow)).sequence for _ in range(5)] == [1, 2, 3, 4, 5]
            assert not failing.failures


async def test_what_was_announced_and_then_lost_with_its_database_is_not_read_for_again_and_again(database: Database) -> None:
    """As after a fail-over to a server that had not got the last commits yet."""
    async with process(database, limits=HubLimits(doubt_check_s=600)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            [watcher] = await live(people, 1)
            counted = here.hub.metrics.registry.get_sample_value
            here.hub.heard(Announcement(teller.conversation_id, 1000, None))
            async with asyncio.timeout(DEADLINE_S):
                while counted("parley_topics_doubted_total") != 2:  # noqa: ASYNC110  (nobody tells)
                    await asyncio.sleep(0)
            for _ in range(20):
                await here.hub.head_of(teller.conversation_id)
            assert counted("parley_log_refills_total") == 2, "when it was told, and when the doubt was looked at"
            await teller.say("hello")
            await watcher.reached(1)


# ---- a bus that cannot tell everything, or nothing

AT_ONCE = HubLimits(attach_s=0, doubt_check_s=0, head_check_s=600)


async def turns() -> None:
    """Whatever runs without waiting for anything runs now, many times."""
    for _ in range(500):
        await asyncio.sleep(0)


async def doubtless(here: Process) -> None:
    """Waits for the check that settles the last doubt; how many turns it takes is the database's affair."""
    async with asyncio.timeout(DEADLINE_S):
        while here.hub.in_doubt:  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0)


async def test_a_number_alone_is_a_reason_to_read_the_log(database: Database) -> None:
    bus = HeldBus()
    async with process(database, bus) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watchers = await live(people, 5)
            await teller.say("too large to travel")
            with statements() as asked:
                here.hub.heard(Announcement(teller.conversation_id, 1, None))
                for watcher in watchers:
                    await watcher.reached(1)
            assert len(asked) == 1
            assert text_of(watchers[0].client) == "too large to travel"


async def test_topics_in_doubt_are_compared_with_their_heads_by_one_query(database: Database) -> None:
    async with process(database, HeldBus()) as here:
        tellers = [await here.teller() for _ in range(5)]
        async with audiences(here, tellers, 2) as rooms:
            await tellers[0].say("lost")
            with statements() as asked:
                here.hub.doubt([teller.conversation_id for teller in tellers])
                for watcher in rooms[0]:
                    await watcher.reached(1)
            assert len(asked) == 1 + 1, "the check, and the read of the topic that was behind"


async def test_while_all_is_well_nothing_is_asked(database: Database) -> None:
    async with process(database, HeldBus(), limits=AT_ONCE) as here:
        tellers = [await here.teller() for _ in range(3)]
        async with audiences(here, tellers, 3):
            with statements() as asked:
                await turns()
            assert asked == []


async def test_a_join_goes_on_without_the_bus_and_is_kept_live_by_checks_until_it_is_there(database: Database) -> None:
    bus = AwayBus()
    async with process(database, bus, limits=AT_ONCE) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watchers = await live(people, 3)
            for number in (1, 2):
                await teller.say(f"unheard {number}")
                for watcher in watchers:
                    await watcher.reached(number)
            await bus.come_back()
            await doubtless(here)
            with statements() as asked:
                await turns()
            assert asked == [], "the doubt is gone"
            await teller.say("heard")
            bus.arrive(3)
            for watcher in watchers:
                await watcher.reached(3)


async def test_what_was_said_while_the_bus_was_away_is_found_when_it_is_back(database: Database) -> None:
    bus = AwayBus()
    bus.there.set()
    async with process(database, bus, limits=HubLimits(doubt_check_s=0.05)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            [watcher] = await live(people, 1)
            bus.go_away()
            await teller.say("unheard")
            await watcher.reached(1)
            await teller.say("unheard too")
            await bus.come_back()
            await watcher.reached(2)


async def test_a_doubt_outlives_a_database_that_is_away(failing: FailingDatabase) -> None:
    async with process(failing, HeldBus(), limits=AT_ONCE) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            [watcher] = await live(people, 1)
            await teller.say("lost")
            failing.failures = 7
            here.hub.doubt([teller.conversation_id])
            await watcher.reached(1)
            assert failing.failures == 0


# ---- how long a topic stays


def later(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_topic_lingers_and_is_then_detached(database: Database) -> None:
    bus = CountingBus()
    async with process(database, bus, limits=HubLimits(linger_s=30)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            await live(people, 1)
            here.hub.detach_idle(later(1000))
            assert [call for call, _ in bus.calls] == ["attach"], "somebody follows it"
        here.hub.detach_idle(later(20))
        async with audience(here.reader, teller.conversation_id) as people:
            await live(people, 1)
        assert [call for call, _ in bus.calls] == ["attach"], "it lingered"
        here.hub.detach_idle(later(31))
        here.hub.detach_idle(later(31))
        assert [call for call, _ in bus.calls] == ["attach", "detach"]


async def test_a_topic_that_was_detached_is_attached_again_and_misses_nothing(database: Database) -> None:
    bus = CountingBus()
    async with process(database, bus) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watcher = (await live(people, 1))[0]
            await teller.say("1")
            await watcher.reached(1)
        here.hub.detach_idle(later(1000))
        await teller.say("2")
        async with audience(here.reader, teller.conversation_id) as people:
            again = people.watch(client=watcher.client.reconnected())
            await again.caught_up()
            await teller.say("3")
            await again.reached(3)
            assert [message.text for message in again.client.messages.values()] == ["1", "2", "3"]
        assert [call for call, _ in bus.calls] == ["attach", "detach", "attach"]


async def test_a_topic_that_somebody_is_just_joining_is_not_detached(database: Database) -> None:
    bus = AwayBus()
    async with process(database, bus, limits=HubLimits(attach_s=600)) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            watcher = people.watch()
            async with asyncio.timeout(DEADLINE_S):
                await bus.asked.wait()
            here.hub.detach_idle(later(1000))
            await bus.come_back()
            await watcher.caught_up()
            await teller.say("live")
            bus.arrive(1)
            await watcher.reached(1)


async def test_what_is_announced_after_the_hub_has_ended_fails_nobody(database: Database) -> None:
    """A worker that hands over at its end still commits, and announces."""
    bus = HeldBus()
    async with process(database, bus) as here:
        teller = await here.teller()
        async with audience(here.reader, teller.conversation_id) as people:
            await live(people, 1)
    for _ in range(2):
        await teller.say("late")
    bus.arrive(2)
