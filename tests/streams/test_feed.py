"""The list feed: nobody is told less than everything without being told so, and nobody costs a query."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace

from cluster.redis import RedisServer
from db import conversations
from db.engine import Database
from runs.commands.agents import NewAgent, create_agent, delete_agent
from runs.commands.conversations import NewConversation, create_conversation
from streams.bus import Bus, MemoryBus
from streams.feed import Feed, FeedLimits
from streams.log import Log
from tests.db.failing import FailingDatabase
from tests.db.rows import stored_conversation
from tests.db.statements import statements
from tests.rig import TENANT, Rig, rig, utc_now
from tests.streams.buses import redis_bus, running
from tests.streams.sidebar import sidebar
from vocabulary.conversations import Conversation, ConversationStatus
from vocabulary.events import Event
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind, ListItem

CREATED, CHANGED, DELETED = ListChangeKind
QUICK = FeedLimits(check_s=0.05, unattached_check_s=0.05, patience_s=0.02)


class LateBus(MemoryBus):
    """What is said of lists arrives when a test says so, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[ListItem] = []
        self.arrives_in_s: float | None = None

    def is_attached(self, topic: str) -> bool:
        """Asked by a check that misses something."""
        if self.arrives_in_s is not None:
            asyncio.get_running_loop().call_later(self.arrives_in_s, self.arrive)
        return super().is_attached(topic)

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        super().publish(events)
        self.late.extend(lists)

    def arrive(self) -> None:
        super().publish((), self.late)


@asynccontextmanager
async def fed(database: Database, bus: Bus | None = None, limits: FeedLimits | None = None) -> AsyncGenerator[tuple[Feed, Log]]:
    """A process that serves lists, and what it writes with."""
    bus = bus or MemoryBus()
    feed = Feed(database, bus, limits or FeedLimits(), utc_now)
    machine = asyncio.create_task(feed.run(), name="feed")
    try:
        yield feed, Log(database, bus, utc_now)
    finally:
        machine.cancel()
        with suppress(asyncio.CancelledError):
            await machine


async def change(log: Log, conversation: Conversation, kind: ListChangeKind = CHANGED) -> None:
    """As a command would."""
    async with log.transaction() as transaction:
        head = await transaction.lock(conversation.id)
        assert head is not None
        await conversations.touch(transaction.connection, [conversation.id], {"updated_at": transaction.now})
        transaction.list_changed(head, replace(conversation, updated_at=transaction.now), kind)


async def test_a_conversation_is_told_when_it_is_created_when_it_runs_and_when_it_has_answered(parley: Rig) -> None:
    async with sidebar(parley.feed) as seen:
        conversation = await parley.conversation()
        await seen.hears_of(conversation.id, CREATED)
        assert seen.held[conversation.id] == conversation
        sent = await parley.say(conversation.id, "hello")
        await parley.ended(sent.run)
        await seen.until(lambda: seen.held[conversation.id].last_run_completed_at is not None)
        assert replace(seen.held[conversation.id], head_sequence=0) == replace(await parley.read(conversation.id), head_sequence=0)
        told = [item.conversation.status for item in seen.items if isinstance(item, ListChange) and item.conversation]
        assert told == [ConversationStatus.IDLE, ConversationStatus.RUNNING, ConversationStatus.IDLE], "not one for each token"
        assert seen.doubts == 0


async def test_what_was_deleted_is_told_without_its_row(database: Database, bus: Bus) -> None:
    conversation = await stored_conversation(database)
    async with fed(database, bus) as (feed, log), sidebar(feed) as seen:
        await change(log, conversation, DELETED)
        await seen.hears_of(conversation.id, DELETED)
        deleted = ListChange.of(DELETED, conversation, 1)
        assert deleted.conversation is None
        assert seen.items[1:] == [deleted]


async def test_a_tenant_hears_of_its_own_list_and_of_no_other(parley: Rig) -> None:
    async with sidebar(parley.feed) as ours, sidebar(parley.feed, tenant="elsewhere") as theirs:
        agent = await create_agent(parley.engine, "elsewhere", NewAgent(name="theirs", model="demo/echo"))
        foreign = await create_conversation(parley.engine, "elsewhere", NewConversation(agent_id=agent.id))
        await theirs.hears_of(foreign.id, CREATED)
        own = await parley.conversation()
        await ours.hears_of(own.id, CREATED)
        assert (list(ours.held), list(theirs.held)) == ([own.id], [foreign.id])


async def test_who_asks_for_one_agent_hears_of_no_other_and_of_every_doubt(parley: Rig) -> None:
    mine, other = await parley.conversation(), await parley.conversation()
    async with sidebar(parley.feed, agent_id=mine.agent_id) as seen:
        await change(parley.engine.log, other)
        async with parley.engine.log.transaction() as transaction:
            transaction.lists_in_doubt("default")
        await change(parley.engine.log, mine)
        await seen.hears_of(mine.id, CHANGED)
        assert (list(seen.held), seen.doubts) == ([mine.id], 1)


async def test_what_failed_is_told_to_nobody(database: Database) -> None:
    conversation = await stored_conversation(database)
    async with fed(database) as (feed, log), sidebar(feed) as seen:
        with suppress(ZeroDivisionError):
            async with log.transaction() as transaction:
                head = await transaction.lock(conversation.id)
                assert head is not None
                transaction.list_changed(head, conversation)
                raise ZeroDivisionError
        await change(log, conversation)
        await seen.hears_of(conversation.id, CHANGED)
        assert [item.version for item in seen.items if isinstance(item, ListChange)] == [1]


# ---- doubts


async def test_an_announcement_that_was_lost_is_noticed_once(database: Database) -> None:
    conversation = await stored_conversation(database)
    async with fed(database, LateBus(), QUICK) as (feed, log), sidebar(feed) as seen:
        for times in (1, 2):
            await change(log, conversation)
            await seen.doubts_more_than(times - 1)
            for _ in range(3):
                await feed.check()
            assert seen.doubts == times
        await change(log, conversation, DELETED)
        await seen.doubts_more_than(2)


async def test_an_agent_that_was_deleted_unheard_is_noticed_once_though_nobody_deletes_its_conversations_yet(database: Database) -> None:
    async with rig(database, bus=LateBus(), feed_limits=QUICK, works=False) as parley:
        conversation = await parley.conversation()
        async with sidebar(parley.feed, tenant=TENANT) as seen:
            await delete_agent(parley.engine, TENANT, conversation.agent_id)
            await seen.doubts_more_than(0)
            for _ in range(3):
                await parley.feed.check()
            assert seen.doubts == 1


async def test_an_announcement_that_is_on_its_way_is_waited_for(database: Database) -> None:
    conversation, bus = await stored_conversation(database), LateBus()
    async with fed(database, bus, FeedLimits(patience_s=1)) as (feed, log), sidebar(feed) as seen:
        await change(log, conversation)
        bus.arrives_in_s = 0.02
        await feed.check()
        await feed.check()
        await seen.hears_of(conversation.id, CHANGED)
        assert seen.doubts == 0


async def test_what_changed_before_anybody_listened_is_no_doubt(database: Database) -> None:
    bus = LateBus()
    log = Log(database, bus, utc_now)
    conversation = await stored_conversation(database)
    await change(log, conversation)
    async with fed(database, bus, FeedLimits(patience_s=0.01)) as (feed, _), sidebar(feed) as seen:
        await feed.check()
        await change(log, conversation)
        bus.arrive()
        await seen.hears_of(conversation.id, CHANGED)
        assert [item.version for item in seen.items if isinstance(item, ListChange)] == [2], "the first was there to be queried"
        assert seen.doubts == 0


async def test_who_could_not_look_for_longer_than_a_check_looks_back_is_in_doubt(database: Database) -> None:
    conversation, bus = await stored_conversation(database), MemoryBus()
    feed = Feed(database, bus, FeedLimits(), utc_now)
    async with sidebar(feed) as seen:
        await feed.check()
        await seen.doubts_more_than(0)
        await feed.check()
        await change(Log(database, bus, utc_now), conversation)
        await seen.hears_of(conversation.id, CHANGED)
        assert seen.doubts == 1


async def test_who_is_slow_is_told_the_newest_of_each_and_who_is_too_slow_to_query(database: Database, bus: Bus) -> None:
    first, second, third = [await stored_conversation(database) for _ in range(3)]
    async with (
        fed(database, bus, FeedLimits(tail_items=4)) as (feed, log),
        sidebar(feed) as quick,
        aclosing(feed.follow("default")) as slow,
    ):
        assert await anext(slow) == ListCaughtUp("default")
        for number, conversation in enumerate((first, second, first, second), start=2):
            await change(log, conversation)
            await quick.until(lambda: len(quick.items) == number)  # noqa: B023  (waited for here)
        told = [await anext(slow), await anext(slow)]
        assert [(item.conversation_id, item.version) for item in told if isinstance(item, ListChange)] == [(first.id, 2), (second.id, 2)]
        for number, conversation in enumerate((first, second, third, first, second), start=6):
            await change(log, conversation)
            await quick.until(lambda: len(quick.items) == number)  # noqa: B023  (waited for here)
        assert await anext(slow) == ListCaughtUp("default")
        await change(log, third)
        last = await anext(slow)
        assert isinstance(last, ListChange)
        assert (last.conversation_id, last.version, quick.doubts) == (third.id, 2, 0)


async def test_when_redis_goes_away_and_when_it_is_back_the_list_is_queried_again(database: Database, server: RedisServer) -> None:
    conversation = await stored_conversation(database)
    async with running(redis_bus(server.url)) as bus, fed(database, bus, QUICK) as (feed, log), sidebar(feed) as seen:
        server.stop()
        await seen.doubts_more_than(0)
        before = seen.doubts
        await change(log, conversation)
        await seen.doubts_more_than(before)
        before = seen.doubts
        server.start()
        await seen.doubts_more_than(before)
        await change(log, conversation)
        await seen.until(lambda: seen.changes(conversation.id) != [] or seen.doubts > before + 1)


async def test_without_redis_a_list_is_followed_by_its_checks(database: Database, server: RedisServer) -> None:
    server.stop()
    conversation = await stored_conversation(database)
    limits = replace(QUICK, attach_s=0.05)
    async with running(redis_bus(server.url)) as bus, fed(database, bus, limits) as (feed, log), sidebar(feed) as seen:
        for _ in range(2):
            before = seen.doubts
            await change(log, conversation)
            await seen.doubts_more_than(before)


async def test_a_list_waits_for_a_database_that_is_away(database_url: str) -> None:
    failing = FailingDatabase.open(database_url)
    failing.recovered = asyncio.Event()
    conversation = await stored_conversation(failing)
    async with fed(failing, limits=QUICK) as (feed, log):
        failing.failures = 3
        async with sidebar(feed) as seen:
            await failing.recovered.wait()
            await change(log, conversation)
            await seen.hears_of(conversation.id, CHANGED)
    await failing.close()


# ---- what it costs


async def test_any_number_of_subscribers_costs_one_attachment_one_query_and_one_decoding(database: Database, bus: Bus) -> None:
    conversation = await stored_conversation(database)
    async with AsyncExitStack() as stack:
        feed, log = await stack.enter_async_context(fed(database, bus))
        with statements() as asked:
            sidebars = [await stack.enter_async_context(sidebar(feed)) for _ in range(50)]
        assert len(asked) == 1, "what changed before the first came"
        with statements() as asked:
            await feed.check()
        assert len(asked) == 1
        received = bus.status().received
        await change(log, conversation)
        with statements() as asked:
            for seen in sidebars:
                await seen.hears_of(conversation.id, CHANGED)
        assert (asked, bus.status().received - received) == ([], 1)
        (item,) = {id(seen.items[-1]) for seen in sidebars}
        assert item == id(sidebars[0].items[-1]), "all share what was decoded once"


async def test_one_query_checks_the_lists_of_all_tenants_and_none_is_asked_when_nobody_listens(database: Database) -> None:
    async with fed(database) as (feed, _):
        with statements() as asked:
            await feed.check()
        assert asked == []
        async with sidebar(feed, tenant="one"), sidebar(feed, tenant="two"):
            with statements() as asked:
                await feed.check()
            assert len(asked) == 1


async def test_a_topic_lingers_and_is_then_detached(database: Database, bus: Bus) -> None:
    async with fed(database, bus, FeedLimits(linger_s=10)) as (feed, _):
        now = asyncio.get_running_loop().time()
        async with sidebar(feed):
            feed.detach_idle(now + 3600)
            assert bus.is_attached("list:default")
        feed.detach_idle(now + 5)
        assert bus.is_attached("list:default")
        feed.detach_idle(now + 3600)
        assert not bus.is_attached("list:default")


async def test_what_one_replica_commits_is_told_on_the_others(database: Database, redis_url: str) -> None:
    first = redis_bus(redis_url)
    async with (
        running(first),
        running(redis_bus(redis_url, prefix=first.prefix)) as second,
        rig(database, bus=first) as here,
        fed(database, second) as (there, _),
        sidebar(there) as seen,
    ):
        conversation = await here.conversation()
        await here.ended((await here.say(conversation.id, "hello")).run)
        await seen.until(lambda: conversation.id in seen.held and seen.held[conversation.id].last_run_completed_at is not None)
        assert (seen.changes(conversation.id)[0], seen.doubts) == (CREATED, 0)
