"""The engine without its API, composed as `app.py` does it, for tests that drive commands and read streams directly."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from db import conversations, events, messages, runs
from db.engine import Database
from db.paging import Window
from llm.backoff import RetryLimits
from llm.registry import ModelRegistry
from runs.commands.agents import NewAgent, create_agent
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.send import InputRole, NewMessage, Send, Sent, send
from runs.engine import Engine
from runs.tools.builtin.clock import current_time
from runs.tools.builtin.memory import memory_tools
from runs.tools.builtin.search import conversation_search
from runs.tools.registry import ServerTool, ToolRegistry
from runs.workers.dispatch import LocalDispatcher
from runs.workers.jobs import JobDispatcher
from runs.workers.worker import Worker, WorkerLimits
from streams.bus import Bus, MemoryBus
from streams.feed import Feed, FeedLimits
from streams.hub import Hub, HubLimits
from streams.log import Log
from streams.reader import Reader
from vocabulary.conversations import AgentTool, Conversation
from vocabulary.events import DeltaMode, Event, Item
from vocabulary.messages import Message, TextPart
from vocabulary.runs import Run

TENANT = "default"


def utc_now() -> datetime:
    return datetime.now(UTC)


async def no_pause(_: float) -> None:
    """Time is not what tests wait for."""
    await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    engine: Engine
    hub: Hub
    reader: Reader
    feed: Feed
    worker: Worker

    @property
    def database(self) -> Database:
        return self.engine.database

    async def conversation(self, *, model: str = "demo/echo", tools: Iterable[str] = (), instructions: str = "Be brief.") -> Conversation:
        given = tuple(AgentTool(name=name) for name in tools)
        agent = await create_agent(self.engine, TENANT, NewAgent(name="tester", model=model, tools=given, instructions=instructions))
        return await create_conversation(self.engine, TENANT, NewConversation(agent_id=agent.id))

    async def say(self, conversation_id: str, *texts: str, **more: object) -> Sent:
        new = tuple(NewMessage(role=InputRole.USER, content=(TextPart(text),)) for text in texts)
        return await send(self.engine, TENANT, Send(conversation_id=conversation_id, messages=new, **more))  # type: ignore[arg-type]

    async def ended(self, run: Run, *, seconds: float = 20) -> Run:
        """Waits for a run's end and reads it."""
        await self.reader.wait_for_end(run, seconds=seconds)
        async with self.database.read() as connection:
            found = await runs.get(connection, run.id)
        assert found is not None
        assert found.ended, found
        return found

    async def history(self, conversation_id: str) -> list[Message]:
        async with self.database.read() as connection:
            only = messages.Filter(include_errors=True)
            page = (await messages.pages(connection, [conversation_id], only, Window(size=1000)))[conversation_id]
        return [part.item for part in page.slices]

    async def read(self, conversation_id: str) -> Conversation:
        async with self.database.read() as connection:
            return (await conversations.read(connection, [conversation_id]))[conversation_id]

    async def stored(self, conversation_id: str) -> list[Event]:
        """The log as it is."""
        async with self.database.read() as connection:
            page = await events.read(connection, conversation_id, after=0, mode=DeltaMode.ALL, limit=100_000)
        assert page is not None
        return list(page.events)


async def collect(items: AsyncGenerator[Item], until: Callable[[Item], bool], *, seconds: float = 20) -> list[Item]:
    """The items up to and including the first that satisfies; the stream is closed then."""
    found: list[Item] = []
    async with asyncio.timeout(seconds), aclosing(items):
        async for item in items:
            found.append(item)
            if until(item):
                break
    return found


@asynccontextmanager
async def rig(
    database: Database,
    *,
    bus: Bus | None = None,
    models: ModelRegistry | None = None,
    tools: Iterable[ServerTool] | None = None,
    hub_limits: HubLimits | None = None,
    feed_limits: FeedLimits | None = None,
    worker_limits: WorkerLimits | None = None,
    max_replay: int = 10_000,
    retries: RetryLimits | None = None,
    pause: Callable[[float], Awaitable[None]] | None = None,
    works: bool = True,
) -> AsyncGenerator[Rig]:
    """`works` False: runs are the work of others, who find them as jobs. `pause`: what is done instead of waiting before a retry."""
    bus = bus or MemoryBus()
    dispatcher = LocalDispatcher() if works else JobDispatcher()
    models = models or ModelRegistry(demo_delay_ms=0)
    engine = Engine(
        database=database,
        log=Log(database, bus, utc_now),
        dispatcher=dispatcher,
        models=models,
        tools=ToolRegistry([current_time(utc_now), conversation_search(), *memory_tools()] if tools is None else tools),
        clock=utc_now,
        default_model="demo/echo",
        retries=retries or RetryLimits(),
        pause=pause or no_pause,
    )
    hub = Hub(database, bus, hub_limits or HubLimits())
    feed = Feed(database, bus, feed_limits or FeedLimits(), utc_now)
    worker = Worker(engine, worker_limits or WorkerLimits(sole=database.is_sqlite))
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(hub.run(), name="hub"), asyncio.create_task(feed.run(), name="feed")]
    try:
        if isinstance(dispatcher, LocalDispatcher):
            dispatcher.serve(worker.advance_soon)
            tasks.append(asyncio.create_task(worker.run(), name="worker"))
            tasks.append(asyncio.create_task(worker.ready.wait(), name="ready"))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a part that could not start says why
        reader = Reader(hub, database, max_replay=max_replay, clock=utc_now)
        yield Rig(engine=engine, hub=hub, reader=reader, feed=feed, worker=worker)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await models.aclose()
