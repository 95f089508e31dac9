"""What we add to the time to the first delta: from the command to a live subscriber, less what the model itself takes.

The model is the demo at its usual pace. It is called directly in this process, too, so that both pay for the same timer.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from statistics import median

from bench.client import Client, visiting
from bench.figures import Figure
from bench.ground import SQLITE, Ground, sqlite_url
from bench.server import serving
from llm.model import Delta, Model, ModelRequest, UserTurn
from llm.registry import ModelRegistry
from tests.rig import Rig
from vocabulary.events import CaughtUp, DeltaMode, Item, MessageDelta, Payload, RunChanged
from vocabulary.messages import TextPart
from vocabulary.runs import TERMINAL_STATUSES

DELAY_MS = 20
TIMES = 20
TEXT = "Hello."
DIRECT = "the model, called directly"


async def first_delta(ground: Ground) -> list[Figure]:
    """Each figure is the median of so many sends, one after the other, each in a conversation of its own."""
    models = ModelRegistry(demo_delay_ms=DELAY_MS)
    direct = await _median_ms(lambda: _of_model(models.resolve("demo/echo")))
    figures = [Figure(DIRECT, direct, "ms")]
    for kind in ground.kinds:
        async with ground.engine(kind, models) as parley:
            figures += _less(direct, f"{kind}, in process", await _median_ms(lambda: _of_engine(parley)))
    with ground.file() as path:
        async with serving(sqlite_url(path), DEMO_DELAY_MS=str(DELAY_MS)) as server, visiting(server.url) as client:
            agent_id = await client.agent()
            figures += _less(direct, f"{SQLITE}, HTTP and WebSocket", await _median_ms(lambda: _of_server(client, agent_id)))
    return figures


def _less(direct: float, label: str, whole: float) -> list[Figure]:
    return [Figure(label, whole, "ms"), Figure(f"{label}, added", whole - direct, "ms")]


async def _median_ms(once: Callable[[], Awaitable[float]]) -> float:
    await once()
    return median([await once() for _ in range(TIMES)])


async def _of_model(model: Model) -> float:
    request = ModelRequest(system="", history=[UserTurn((TextPart(TEXT),))])
    started = time.perf_counter()
    async with aclosing(model.stream(request)) as stream:
        async for event in stream:
            if isinstance(event, Delta):
                break
    return _ms_since(started)


async def _of_engine(parley: Rig) -> float:
    conversation = await parley.conversation()
    async with aclosing(parley.reader.follow(conversation.id, after=None, mode=DeltaMode.COALESCED)) as items:
        await _pass(items, lambda payload: isinstance(payload, CaughtUp))
        started = time.perf_counter()
        sending = asyncio.create_task(parley.say(conversation.id, TEXT), name="send")
        await _pass(items, lambda payload: isinstance(payload, MessageDelta))
        elapsed = _ms_since(started)
        await _pass(items, lambda payload: isinstance(payload, RunChanged) and payload.status in TERMINAL_STATUSES)
        await sending
    return elapsed


async def _pass(items: AsyncGenerator[Item], until: Callable[[Payload | None], bool]) -> None:
    async for item in items:
        if until(item.payload):
            return


async def _of_server(client: Client, agent_id: str) -> float:
    conversation_id = await client.conversation(agent_id)
    async with client.socket() as socket:
        await socket.follow(conversation_id)
        await socket.until("CaughtUp")
        started = time.perf_counter()
        sending = asyncio.create_task(client.send(conversation_id, TEXT), name="send")
        await socket.until("MessageDelta")
        elapsed = _ms_since(started)
        await socket.until_ended()
        await sending
    return elapsed


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
