"""What a subscriber costs a server that has nothing to tell it: resident memory, before 2,000 of them came and when all have caught up."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.client import Client, visiting
from bench.figures import Figure
from bench.ground import Ground, sqlite_url
from bench.server import serving

SUBSCRIBERS = 2_000
PER_SOCKET = 100
AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Audience:
    """`shared`: all follow one conversation; else each its own."""

    per_socket: int
    shared: bool

    @property
    def label(self) -> str:
        return f"{self.per_socket} on a socket, {'all one conversation' if self.shared else 'each its own conversation'}"


AUDIENCES = [Audience(per_socket, shared) for per_socket in (1, PER_SOCKET) for shared in (False, True)]


async def idle(ground: Ground) -> list[Figure]:
    """A new server for each, since memory that was once taken is not all given back."""
    with ground.file() as prepared:
        conversation_ids = await _prepare(prepared)
        return [Figure(audience.label, await _kib_each(ground, prepared, conversation_ids, audience), "KiB each") for audience in AUDIENCES]


async def _prepare(path: Path) -> list[str]:
    async with serving(sqlite_url(path)) as server, visiting(server.url) as client:
        agent_id = await client.agent()
        return [await client.conversation(agent_id) for _ in range(SUBSCRIBERS)]


async def _kib_each(ground: Ground, prepared: Path, conversation_ids: list[str], audience: Audience) -> float:
    followed = [conversation_ids[0]] * SUBSCRIBERS if audience.shared else conversation_ids
    with ground.file() as path:
        shutil.copy(prepared, path)
        async with serving(sqlite_url(path)) as server, visiting(server.url) as client, AsyncExitStack() as open_sockets:
            await _join(client, open_sockets, followed[:1])  # what the first subscriber brings with it is not everybody's
            before = server.resident_kib()
            await join_all(client, open_sockets, followed, audience.per_socket)
            return (server.resident_kib() - before) / SUBSCRIBERS


async def join_all(client: Client, open_sockets: AsyncExitStack, followed: list[str], per_socket: int) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def join(part: list[str]) -> None:
        async with places:
            await _join(client, open_sockets, part)

    await asyncio.gather(*(join(followed[start : start + per_socket]) for start in range(0, len(followed), per_socket)))


async def _join(client: Client, open_sockets: AsyncExitStack, followed: list[str]) -> None:
    """One socket that follows these, all caught up."""
    socket = await open_sockets.enter_async_context(client.socket())
    for conversation_id in followed:
        await socket.follow(conversation_id)
    for _ in followed:
        await socket.until("CaughtUp")
