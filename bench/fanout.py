"""What a live delta costs per subscriber: one conversation answers as fast as it can be followed, and 100 sockets get every delta."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack

from bench.client import Socket, visiting
from bench.figures import Figure
from bench.ground import Ground, sqlite_url
from bench.server import serving

SUBSCRIBERS = 100
WORDS = 200
DELAY_MS = 5  # faster than a hundred subscribers can be served, slow enough that a commit holds one delta or two


async def fanout(ground: Ground) -> list[Figure]:
    """The server's time is all of it: the model, the log, and the sockets."""
    with ground.file() as path:
        async with (
            serving(sqlite_url(path), DEMO_DELAY_MS=str(DELAY_MS)) as server,
            visiting(server.url) as client,
            AsyncExitStack() as open_sockets,
        ):
            conversation_id = await client.conversation(await client.agent())
            sockets = [await open_sockets.enter_async_context(client.socket()) for _ in range(SUBSCRIBERS)]
            await asyncio.gather(*(_join(socket, conversation_id) for socket in sockets))
            await _deliveries(sockets, client.send(conversation_id, "Hello."))
            cpu, started = server.cpu_s(), time.perf_counter()
            delivered = await _deliveries(sockets, client.send(conversation_id, "word " * WORDS))
            elapsed, cpu = time.perf_counter() - started, server.cpu_s() - cpu
            return [
                Figure(f"deltas delivered to {SUBSCRIBERS} sockets", delivered / elapsed, "/s"),
                Figure("server's processor time", cpu / delivered * 1e6, "µs each"),
                Figure("server's processor in use", cpu / elapsed * 100, "%"),
            ]


async def _join(socket: Socket, conversation_id: str) -> None:
    await socket.follow(conversation_id, deltas="ALL")
    await socket.until("CaughtUp")


async def _deliveries(sockets: list[Socket], sending: Awaitable[None]) -> int:
    """How many deltas came before each socket saw the end."""
    payloads, _ = await asyncio.gather(asyncio.gather(*(socket.until_ended() for socket in sockets)), sending)
    return sum(payload["__typename"] == "MessageDelta" for each in payloads for payload in each)
