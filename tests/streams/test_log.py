"""Writing to the log: numbers without holes, in the order of commits; told after the commit and not without one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import AdaptedConnection, Engine, event
from sqlalchemy import Connection as Connected
from sqlalchemy.pool import Pool

from db import events, heads
from db.engine import Connection, Database
from streams.bus import Bus
from streams.log import Log
from tests.db.rows import NOON, stored_conversation
from tests.rig import utc_now
from tests.streams.buses import HeldBus
from tests.streams.telling import Teller
from tests.streams.watching import process
from vocabulary.events import ConversationChanged, DeltaMode


class GivenUp(Exception):
    pass


class CutDatabase(Database):
    """The connection is cut between a commit and its answer."""

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        del committed  # nobody knows
        async with super().write() as connection:
            yield connection
        raise ConnectionResetError


async def test_what_is_committed_is_announced_and_who_waited_for_it_is_woken(database: Database) -> None:
    bus, woken = HeldBus(), list[list[int]]()
    conversation = await stored_conversation(database)
    log = Log(database, bus, utc_now)
    async with log.transaction() as transaction:
        transaction.after_commit.append(lambda: woken.append(list(bus.held)))
        head = await transaction.lock(conversation.id)
        assert head is not None
        transaction.append(head, head.take_sequence(), ConversationChanged(conversation))
        assert (list(bus.held), woken) == ([], [])
    assert (list(bus.held), woken) == ([1], [[1]])


async def test_a_commit_that_was_not_answered_is_not_announced_until_somebody_knows(database_url: str) -> None:
    database, bus = Database.open(database_url), HeldBus()
    conversation = await stored_conversation(database)
    await database.close()
    cut = CutDatabase.open(database_url)
    with pytest.raises(ConnectionResetError):
        await Teller(Log(cut, bus, utc_now), conversation.id).say("hello")
    async with cut.read() as connection:
        assert await heads.positions(connection, [conversation.id]) == {conversation.id: 1}
    assert bus.held == {}
    await cut.close()


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_who_begins_first_and_gets_the_lock_last_tells_no_earlier_time(database: Database) -> None:
    conversation = await stored_conversation(database)
    times = iter(range(10))
    log = Log(database, HeldBus(), lambda: NOON + timedelta(seconds=next(times)))
    async with log.transaction() as early:
        await Teller(log, conversation.id).say("hello")
        head = await early.lock(conversation.id)
        assert head is not None
        early.append(head, head.take_sequence(), ConversationChanged(conversation))
    async with database.read() as connection:
        page = await events.read(connection, conversation.id, after=0, mode=DeltaMode.ALL, limit=10)
    assert page is not None
    told = [event.occurred_at for event in page.events]
    assert told == sorted(told)


@contextmanager
def when_a_connection_goes_back(call: Callable[[], object]) -> Generator[None]:
    def goes_back(_connection: object, _record: object) -> None:
        call()

    event.listen(Pool, "checkin", goes_back)
    try:
        yield
    finally:
        event.remove(Pool, "checkin", goes_back)


async def test_who_is_cancelled_after_the_commit_has_announced_it(database: Database) -> None:
    bus, conversation = HeldBus(), await stored_conversation(database)
    saying = asyncio.create_task(Teller(Log(database, bus, utc_now), conversation.id).say("hello"))
    with when_a_connection_goes_back(saying.cancel), pytest.raises(asyncio.CancelledError):
        await saying
    assert list(bus.held) == [1]


@contextmanager
def when_a_commit_begins(call: Callable[[], Awaitable[object]]) -> Generator[None]:
    """The commit waits for what is called, and fails with it."""

    def begins(connection: Connected) -> None:
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, AdaptedConnection)
        driver.run_async(lambda _: call())

    event.listen(Engine, "commit", begins)
    try:
        yield
    finally:
        event.remove(Engine, "commit", begins)


async def next_turns() -> None:
    """Whoever was cancelled has learned of it."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_is_cancelled_during_the_commit_learns_it_when_all_is_announced(database: Database) -> None:
    bus, conversation = HeldBus(), await stored_conversation(database)
    saying = asyncio.create_task(Teller(Log(database, bus, utc_now), conversation.id).say("hello"))

    async def cancel_again_and_again() -> None:
        for _ in range(3):
            saying.cancel()
            await next_turns()

    with when_a_commit_begins(cancel_again_and_again), pytest.raises(asyncio.CancelledError):
        await saying
    assert list(bus.held) == [1]
    assert (await Teller(Log(database, bus, utc_now), conversation.id).say("again")).sequence == 2


async def test_a_deadline_that_passes_during_the_commit_is_told_after_it(database: Database) -> None:
    bus, conversation = HeldBus(), await stored_conversation(database)
    deadline = asyncio.timeout(None)

    async def pass_it() -> None:
        deadline.reschedule(asyncio.get_running_loop().time())
        while not deadline.expired():  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0)
        await next_turns()

    with when_a_commit_begins(pass_it), pytest.raises(TimeoutError):
        async with deadline:
            await Teller(Log(database, bus, utc_now), conversation.id).say("hello")
    assert list(bus.held) == [1]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_commit_that_fails_says_why_and_announces_nothing(database: Database, *, cancelled: bool) -> None:
    bus, conversation = HeldBus(), await stored_conversation(database)
    saying = asyncio.create_task(Teller(Log(database, bus, utc_now), conversation.id).say("hello"))

    async def fail() -> None:
        if cancelled:
            saying.cancel()
            await next_turns()
        raise GivenUp

    with when_a_commit_begins(fail), pytest.raises(asyncio.CancelledError if cancelled else GivenUp) as told:
        await saying
    assert isinstance(told.value.__cause__ if cancelled else told.value, GivenUp)
    assert bus.held == {}
    assert (await Teller(Log(database, bus, utc_now), conversation.id).say("first")).sequence == 1


async def give_up(log: Log, conversation_id: str, woken: list[str]) -> None:
    async with log.transaction() as transaction:
        head = await transaction.lock(conversation_id)
        assert head is not None
        head.take_sequence()
        transaction.after_commit.append(lambda: woken.append(conversation_id))
        raise GivenUp


async def test_what_fails_leaves_nothing_and_announces_nothing(database: Database) -> None:
    bus, woken = HeldBus(), list[str]()
    log, conversation = Log(database, bus, utc_now), await stored_conversation(database)
    with pytest.raises(GivenUp):
        await give_up(log, conversation.id, woken)
    assert (list(bus.held), woken) == ([], [])
    assert (await Teller(log, conversation.id).say("first")).sequence == 1


async def test_what_does_not_exist_cannot_be_locked(database: Database) -> None:
    async with Log(database, HeldBus(), utc_now).transaction() as transaction:
        assert await transaction.lock("conv-none") is None


async def test_writers_at_once_leave_one_log_without_holes_in_the_order_of_their_commits(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        teller = await here.teller()
        told = [Teller(here.log, teller.conversation_id) for _ in range(10)]
        follow = here.reader.follow(teller.conversation_id, after=0, mode=DeltaMode.ALL)
        await anext(follow)
        writing = asyncio.gather(*(one.say(str(i)) for one in told for i in range(3)))
        seen = [(await anext(follow)).sequence for _ in range(30)]
        events = await writing
        assert seen == list(range(1, 31))
        assert sorted(event.sequence for event in events) == seen
        await follow.aclose()
