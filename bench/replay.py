"""How long one subscriber waits for what it has missed: 2,000 deltas of one answer, while it is unfinished and after it ended.

Each delta was committed before the next was said, so that all of them are rows of the log.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from statistics import median

import orjson

from bench.client import Client, Socket, visiting
from bench.figures import Figure
from bench.ground import SQLITE, Ground, sqlite_url
from bench.server import serving
from bench.speakers import WORD, Dictated
from tests.provider import Answer, Provider
from tests.rig import Rig
from tests.runs.scripted import Models
from vocabulary.events import CaughtUp, DeltaMode, MessageDelta
from vocabulary.runs import Run

DELTAS = 2_000
TIMES = 5
MODEL = "bench/dictated"

Replay = Callable[[DeltaMode], Awaitable[int]]
"""From the start to CaughtUp; answers the number of items."""


async def replay(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for kind in ground.kinds:
        figures += await _in_process(ground, kind)
    with ground.file() as path:
        figures += await _over_sockets(path)
    return figures


async def _figures(label: str, replay: Replay) -> list[Figure]:
    figures: list[Figure] = []
    for mode in DeltaMode:
        name = f"{label}, {mode}"
        elapsed, items = await _measured(replay, mode)
        figures.append(Figure(name, elapsed * 1000, "ms", None if mode is DeltaMode.ALL else f"{label}, {DeltaMode.ALL}"))
        if items > DELTAS:
            figures.append(Figure(f"{name}, items", items / elapsed, "/s"))
    return figures


async def _measured(replay: Replay, mode: DeltaMode) -> tuple[float, int]:
    """Median seconds, and items."""
    items = await replay(mode)
    times: list[float] = []
    for _ in range(TIMES):
        started = time.perf_counter()
        await replay(mode)
        times.append(time.perf_counter() - started)
    return median(times), items


# ---- in process


async def _in_process(ground: Ground, kind: str) -> list[Figure]:
    model = Dictated()
    async with ground.engine(kind, Models(model)) as parley:
        conversation = await parley.conversation(model=model.handle)

        async def from_the_start(mode: DeltaMode) -> int:
            items = 0
            async with aclosing(parley.reader.follow(conversation.id, after=0, mode=mode)) as stream:
                async for item in stream:
                    items += 1
                    if isinstance(item.payload, CaughtUp):
                        break
            return items

        run = await _dictate(parley, model, conversation.id)
        unfinished = await _figures(f"{kind}, in process, unfinished", from_the_start)
        model.words.put_nowait(None)
        await parley.ended(run)
        return unfinished + await _figures(f"{kind}, in process, ended", from_the_start)


async def _dictate(parley: Rig, model: Dictated, conversation_id: str) -> Run:
    """Returns when the last delta is stored."""
    async with aclosing(parley.reader.follow(conversation_id, after=0, mode=DeltaMode.ALL)) as items:
        sent = await parley.say(conversation_id, "Go.")
        model.words.put_nowait(WORD)
        said = 1
        async for item in items:
            if not isinstance(item.payload, MessageDelta):
                continue
            if said == DELTAS:
                break
            model.words.put_nowait(WORD)
            said += 1
    return sent.run


# ---- over a socket, of a server whose model's provider is here


async def _over_sockets(path: Path) -> list[Figure]:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(Provider())
        server = await stack.enter_async_context(serving(sqlite_url(path), PROVIDERS=_named(provider), DEFAULT_MODEL=MODEL))
        client = await stack.enter_async_context(visiting(server.url))
        socket = await stack.enter_async_context(client.socket())
        conversation_id = await client.conversation(await client.agent())

        async def from_the_start(mode: DeltaMode) -> int:
            operation = await socket.follow(conversation_id, after=0, deltas=mode)
            items = await socket.until("CaughtUp")
            await socket.leave(operation)
            return len(items)

        async with _unfinished(client, provider, conversation_id) as finish:
            unfinished = await _figures(f"{SQLITE}, WebSocket, unfinished", from_the_start)
            await finish()
        return unfinished + await _figures(f"{SQLITE}, WebSocket, ended", from_the_start)


def _named(provider: Provider) -> str:
    name, _, model = MODEL.partition("/")
    return orjson.dumps({name: {"base_url": provider.base_url, "models": {model: {"context_window": 100_000}}}}).decode()


@asynccontextmanager
async def _unfinished(client: Client, provider: Provider, conversation_id: str) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """An answer whose deltas are all stored, and how to let it end."""
    gates = {1 + number: asyncio.Event() for number in range(DELTAS + 1)}  # the first chunk says only the role
    provider.script(Answer(text=[WORD] * DELTAS, gates=gates))
    async with client.socket() as writer_s_view:
        await writer_s_view.follow(conversation_id, deltas=DeltaMode.ALL)
        await writer_s_view.until("CaughtUp")
        await client.send(conversation_id, "Go.")
        await _open_in_turn(writer_s_view, gates)

        async def finish() -> None:
            gates[1 + DELTAS].set()
            await writer_s_view.until_ended()

        yield finish


async def _open_in_turn(socket: Socket, gates: Mapping[int, asyncio.Event]) -> None:
    for number in range(1, 1 + DELTAS):
        gates[number].set()
        await socket.until("MessageDelta")
