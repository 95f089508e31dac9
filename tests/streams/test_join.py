"""Joining, with the real hub and reader over a real database: every schedule of two events around the steps of one join.

The join is stopped at each of its steps, at a gate and not for a time. While it stands there the schedule commits events and lets
their announcements arrive, late, in the wrong order, twice or never. What a hole makes the hub do is waited for, so that each schedule
happens in the same way every time.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, permutations

import pytest

from db import messages
from db.engine import Connection, Database
from streams.hub import Hub, HubLimits
from streams.log import Log
from streams.reader import Reader
from tests.db.patience import PATIENT
from tests.db.rows import TENANT, stored_conversation
from tests.rig import utc_now
from tests.streams.buses import HeldBus
from tests.streams.client import Client
from tests.streams.telling import Teller
from vocabulary.events import DeltaMode, Event, Item, MessageDelta, MessageStarted
from vocabulary.messages import Message

DEADLINE_S = 20

NEVER_WITHOUT_THE_BUS = HubLimits(attach_s=DEADLINE_S)
"""A join stands at the bus for as long as its schedule takes there, which on a busy disk is longer than a hub waits."""

STOPS = ("attach", "attached", "head seen", "head seen again", "page read", "live")
"""Where a join stands still: before the bus is told, after it has confirmed, after each of three reads, and when it has caught up."""

Move = str
"""`c1`, `c2`: commit. `h1`, `h2`: the announcement arrives (for a second time, when it says so twice)."""

Schedule = tuple[tuple[Move, ...], ...]
"""For each stop, what happens there."""


def orders(moves: Sequence[Move]) -> Iterator[tuple[Move, ...]]:
    """All orders in which what is announced was committed before, and numbers were taken one after the other."""
    for order in sorted(set(permutations(moves))):
        at = {move: order.index(move) for move in order}
        if at["c1"] < at["c2"] and at["c1"] < at.get("h1", 9) and at["c2"] < at.get("h2", 9):
            yield order


def schedules(heard: Sequence[Move], stops: Sequence[int]) -> Iterator[Schedule]:
    for order in orders(["c1", "c2", *heard]):
        for places in combinations_with_replacement(stops, len(order)):
            yield tuple(tuple(m for m, place in zip(order, places, strict=True) if place == stop) for stop in range(len(STOPS)))


NEVER_OR_ONCE = [(), ("h1",), ("h2",), ("h1", "h2")]
TWICE = [("h1", "h1", "h2"), ("h1", "h2", "h2")]
ALL_STOPS = range(len(STOPS))
SOME_STOPS = [0, 2, 4, 5]  # between the reads: what tells a start or an end shown from one that was read as finished


def is_found_without_a_check(schedule: Schedule) -> bool:
    """The last event was committed before the page was read, or its announcement was heard after that."""
    committed = next(stop for stop, moves in enumerate(schedule) if "c2" in moves)
    return committed < STOPS.index("page read") or any("h2" in moves for moves in schedule)


Tell = Callable[[Teller], Awaitable[Event]]


@dataclass(frozen=True, slots=True)
class Story:
    """`first` and `second` are the events that the schedules move about."""

    name: str
    mode: DeltaMode
    before: tuple[Tell, ...]
    first: Tell
    second: Tell
    after: Tell


def told(text: str) -> Tell:
    return lambda teller: teller.say(text)


def grown(teller: Teller) -> Awaitable[Event]:
    return teller.grow("🚀")


WHOLE = Story("whole-messages", DeltaMode.ALL, (told("0"),), told("1"), told("2"), told("3"))
PARTS = (
    Story("a-start", DeltaMode.COALESCED, (told("0"),), Teller.start, grown, Teller.finish),
    Story("an-end", DeltaMode.COALESCED, (Teller.start,), grown, Teller.finish, told("3")),
)


class Steps:
    """The gate that one task is stopped at, again and again."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[tuple[str, asyncio.Event]] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def stop(self, name: str) -> None:
        """For the join's own task; whoever else comes along passes."""
        if asyncio.current_task() is self.task:
            opened = asyncio.Event()
            self._arrived.put_nowait((name, opened))
            await opened.wait()

    async def arrived(self, name: str) -> asyncio.Event:
        where, opened = await self._arrived.get()
        assert where == name
        return opened


class SteppedBus(HeldBus):
    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    async def attach(self, topic: str) -> None:
        await self._steps.stop("attach")
        await super().attach(topic)
        await self._steps.stop("attached")


class SteppedDatabase(Database):
    """Stops its reader with the answer in hand, which may be old when it goes on."""

    steps: Steps
    stops: list[str]

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection]:
        async with super().read() as connection:
            yield connection
        if asyncio.current_task() is self.steps.task and self.stops:
            await self.steps.stop(self.stops.pop(0))


@pytest.fixture
async def stepped(database_url: str) -> AsyncGenerator[SteppedDatabase]:
    database = SteppedDatabase.open(database_url, postgres=PATIENT)
    database.steps, database.stops = Steps(), []
    yield database
    await database.close()


class Join:
    """One subscriber of a hub of its own, that joins a conversation step by step."""

    def __init__(self, database: SteppedDatabase, conversation_id: str, story: Story) -> None:
        self.steps = database.steps = Steps()
        database.stops = list(STOPS[2:5])
        self.bus = SteppedBus(self.steps)
        self.hub = Hub(database, self.bus, NEVER_WITHOUT_THE_BUS)
        self.reader = Reader(self.hub, database, max_replay=100, clock=utc_now)
        self.teller = Teller(Log(database, self.bus, utc_now), conversation_id)
        self.client = Client()
        self.shown: list[int] = []
        self._story = story
        self._progress = asyncio.Condition()

    async def begin(self) -> None:
        """What was before, the client knows; it comes back at its head."""
        for tell in self._story.before:
            event = await tell(self.teller)
            self.client.position = event.sequence
            if isinstance(event.payload, MessageStarted):
                self.client.messages[event.payload.message.id] = event.payload.message

    async def play(self, schedule: Schedule) -> None:
        first = self.client.position + 1
        for stop, moves in zip(STOPS, schedule, strict=True):
            opened = await self._stands_at(stop)
            for move in moves:
                await self._make(move, first)
            await self._filled()
            opened.set()

    async def _stands_at(self, stop: str) -> asyncio.Event:
        if stop != "live":
            return await self.steps.arrived(stop)
        await self.until(lambda: self.client.caught_up_at is not None)
        return asyncio.Event()

    async def _make(self, move: Move, first: int) -> None:
        match move:
            case "c1":
                await self._story.first(self.teller)
            case "c2":
                await self._story.second(self.teller)
            case _:
                self.bus.arrive(first if move == "h1" else first + 1)

    async def _filled(self) -> None:
        if filling := [task for task in asyncio.all_tasks() if task.get_name().startswith("fill")]:
            await asyncio.wait(filling, timeout=DEADLINE_S)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._progress:
            await self._progress.wait_for(condition)

    async def reached(self, sequence: int) -> None:
        await self.until(lambda: self.client.position >= sequence)

    async def conclude(self) -> None:
        """One event more, that arrives: whatever came twice would come before it."""
        event = await self._story.after(self.teller)
        self.bus.arrive(event.sequence)
        await self.reached(event.sequence)

    async def _follow(self) -> None:
        follow = self.reader.follow(self.teller.conversation_id, after=self.client.position, mode=self._story.mode)
        async with aclosing(follow) as items:
            async for item in items:
                async with self._progress:
                    self._show(item)
                    self._progress.notify_all()

    def _show(self, item: Item) -> None:
        if isinstance(item.payload, MessageDelta):
            assert item.payload.message_id in self.client.messages, "a start is never skipped whose deltas are still to come"
        if item.sequence > self.client.position:
            self.shown.append(item.sequence)
        self.client.take(item)

    @asynccontextmanager
    async def joining(self) -> AsyncGenerator[None]:
        hub = asyncio.create_task(self.hub.run(), name="hub")
        self.steps.task = asyncio.create_task(self._follow(), name="join")
        try:
            yield
        finally:
            for task in (self.steps.task, hub):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def stored(database: Database, ids: Iterable[str]) -> dict[str, Message]:
    async with database.read() as connection:
        return {message.id: replace(message, sequence=0) for message in await messages.by_ids(connection, TENANT, ids)}


CASES = [
    *((WHOLE, heard, ALL_STOPS) for heard in NEVER_OR_ONCE[:3]),
    (WHOLE, NEVER_OR_ONCE[3], ALL_STOPS[1:]),
    *((WHOLE, heard, SOME_STOPS[1:]) for heard in TWICE),
    *((story, heard, SOME_STOPS) for story in PARTS for heard in NEVER_OR_ONCE),
]


@pytest.mark.parametrize(("story", "heard", "stops"), CASES, ids=lambda part: getattr(part, "name", None))
async def test_in_every_schedule_around_a_join_nothing_is_lost_and_nothing_doubled(
    stepped: SteppedDatabase, story: Story, heard: Sequence[Move], stops: Sequence[int]
) -> None:
    conversation = await stored_conversation(stepped)
    for schedule in schedules(heard, stops):
        join = Join(stepped, conversation.id, story)
        await join.begin()
        first = join.client.position + 1
        async with join.joining():
            await join.play(schedule)
            if not is_found_without_a_check(schedule):
                assert join.client.position <= first, "nobody could know"
                await join.hub.check_heads()
            await join.reached(first + 1)
            await join.conclude()
        if story.mode is DeltaMode.ALL:
            assert join.shown == [first, first + 1, first + 2], schedule
        assert join.client.state().messages == await stored(stepped, join.client.messages), schedule


def test_the_schedules_are_many_and_some_need_the_head_check() -> None:
    found = [schedule for heard in NEVER_OR_ONCE for schedule in schedules(heard, ALL_STOPS)]
    assert len(found) > 500
    assert len(set(found)) == len(found)
    assert {is_found_without_a_check(schedule) for schedule in found} == {True, False}
