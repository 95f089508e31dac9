"""How long a cancel takes: from the command to the terminal event at a live subscriber, and until the model is hung up on.

In each state that a run can be in, many times one after the other. Beside PostgreSQL also with the run in another process, which learns of
it through Redis.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from math import ceil
from statistics import median

from bench.figures import Figure
from bench.ground import POSTGRESQL, Ground
from cluster.redis import redis
from db.engine import Database
from db.migrate import upgrade
from llm.endpoints import CompatibleServer
from llm.registry import ModelRegistry
from runs.commands.cancel import cancel_run
from runs.tools.registry import Arguments, ServerTool, ToolContext
from streams.redis_bus import RedisBus
from tests.provider import Answer, Call, Delivery, Provider
from tests.rig import TENANT, Rig, rig
from tests.runs.processes import Servers, worker
from tests.streams.buses import running
from vocabulary.events import CaughtUp, DeltaMode, Item, MessageDelta, Payload, RunChanged, ToolCallChanged
from vocabulary.messages import ToolCallState
from vocabulary.runs import TERMINAL_STATUSES, RunStatus

TIMES = 50

Sign = Callable[[Payload | None], bool]


async def _never(_arguments: Arguments, _context: ToolContext) -> str:
    await asyncio.Event().wait()
    return ""


LONG_TOOL = ServerTool(name="wait", description="Never returns.", parameters={"type": "object"}, run=_never)


def _running(payload: Payload | None) -> bool:
    return isinstance(payload, RunChanged) and payload.status is RunStatus.RUNNING


def _said(payload: Payload | None) -> bool:
    return isinstance(payload, MessageDelta)


def _works(payload: Payload | None) -> bool:
    return isinstance(payload, ToolCallChanged) and payload.tool_call.state is ToolCallState.RUNNING


STATES: dict[str, tuple[Delivery, Sign]] = {
    "before the first token": (Answer(text="Words.", stall_after=1), _running),
    "after some tokens": (Answer(text="Words.", stall_after=2), _said),
    "in a tool": (Answer(tool_calls=[Call("wait")]), _works),
}
QUEUED = "queued"


async def cancel(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for kind in ground.kinds:
        async with Provider() as provider, ground.engine(kind, _models(provider), tools=[LONG_TOOL]) as parley:
            figures += await _of_all(f"{kind}, in process", parley, provider, [QUEUED, *STATES])
    if ground.postgres is not None:
        async with Provider() as provider, _apart(ground, provider) as parley:
            figures += await _of_all(f"{POSTGRESQL}, another process", parley, provider, [QUEUED, *STATES][:-1])
    return figures


def _models(provider: Provider) -> ModelRegistry:
    return ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})


@asynccontextmanager
async def _apart(ground: Ground, provider: Provider) -> AsyncGenerator[Rig]:
    """A worker in a process of its own, which has only the tools that every server has."""
    async with ground.url(POSTGRESQL) as url:
        database = Database.open(url)
        await upgrade(database)
        with redis() as redis_url:
            providers = f'{{"local": {{"base_url": "{provider.base_url}"}}}}'
            async with (
                worker(Servers(url, redis_url), PROVIDERS=providers, LEASE_S="60"),
                running(RedisBus(redis_url)) as bus,
                rig(database, bus=bus, models=_models(provider), works=False) as parley,
            ):
                yield parley
        await database.close()


async def _of_all(label: str, parley: Rig, provider: Provider, states: Sequence[str]) -> list[Figure]:
    figures: list[Figure] = []
    for state in states:
        once = _queued if state == QUEUED else _of_state(state)
        await once(parley, provider)
        taken = [await once(parley, provider) for _ in range(TIMES)]
        figures += _figures(f"{label}, {state}", [told for told, _ in taken])
        if state == "after some tokens":
            figures += _figures(f"{label}, until hung up on", [hung_up for _, hung_up in taken])
    return figures


def _figures(label: str, taken: Sequence[float]) -> list[Figure]:
    p99 = sorted(taken)[ceil(len(taken) * 0.99) - 1]
    return [Figure(f"{label}, p50", median(taken), "ms"), Figure(f"{label}, p99", p99, "ms")]


Once = Callable[[Rig, Provider], Awaitable[tuple[float, float]]]


def _of_state(state: str) -> Once:
    answer, is_there = STATES[state]

    async def once(parley: Rig, provider: Provider) -> tuple[float, float]:
        conversation = await parley.conversation(model="local/m", tools=["wait"] if state == "in a tool" else [])
        asked, left = len(provider.requests), len(provider.disconnects)
        provider.script(answer)
        async with aclosing(parley.reader.follow(conversation.id, after=0, mode=DeltaMode.ALL)) as items:
            sent = await parley.say(conversation.id, "Hi")
            await _pass(items, is_there)
            await provider.until(lambda: len(provider.requests) > asked)
            taken = await _cancelled(parley, items, sent.run.id)
            started = time.perf_counter() - taken / 1000
        if state != "in a tool":
            await provider.until(lambda: len(provider.disconnects) > left)
        return taken, _ms_since(started)

    return once


async def _queued(parley: Rig, provider: Provider) -> tuple[float, float]:
    conversation = await parley.conversation(model="local/m")
    asked = len(provider.requests)
    provider.script(Answer(text="Words.", stall_after=1))
    async with aclosing(parley.reader.follow(conversation.id, after=0, mode=DeltaMode.ALL)) as items:
        first = await parley.say(conversation.id, "First")
        await provider.until(lambda: len(provider.requests) > asked)
        second = await parley.say(conversation.id, "Second")
        await _pass(items, lambda payload: isinstance(payload, CaughtUp))
        taken = await _cancelled(parley, items, second.run.id)
        await _cancelled(parley, items, first.run.id)
    return taken, taken


async def _cancelled(parley: Rig, items: AsyncGenerator[Item], run_id: str) -> float:
    started = time.perf_counter()
    cancelling = asyncio.create_task(cancel_run(parley.engine, TENANT, run_id), name="cancel")
    async for item in items:
        if item.run_id == run_id and isinstance(item.payload, RunChanged) and item.payload.status in TERMINAL_STATUSES:
            break
    taken = _ms_since(started)
    await cancelling
    return taken


async def _pass(items: AsyncGenerator[Item], until: Sign) -> None:
    async for item in items:
        if until(item.payload):
            return


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
