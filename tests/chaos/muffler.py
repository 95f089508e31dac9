"""Between the programs and Redis: bytes pass. While it is muffled, what is published is swallowed, and its sender told that it was sent."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import cast

from hiredis import Reader

_PUBLISHES = (b"PUBLISH", b"SPUBLISH")
_NOBODY_HEARD = b":0\r\n"


class Muffler:
    """`target`: the port of a server on this machine; while there is none, nobody is let in."""

    def __init__(self) -> None:
        self.port = 0
        self.target: int | None = None
        self.is_muffled = False
        self.swallowed = 0
        self._clients: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        with suppress(OSError):
            if self.target is not None:
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
                passing = [
                    asyncio.create_task(self._commands(reader, there_writer, writer), name="commands to Redis"),
                    asyncio.create_task(_pass(there_reader, writer), name="answers of Redis"),
                ]
                try:
                    await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in passing:
                        task.cancel()
                    there_writer.transport.abort()
        writer.transport.abort()
        self._clients.discard(writer)

    def hang_up(self) -> None:
        for writer in self._clients:
            writer.transport.abort()

    async def _commands(self, here: asyncio.StreamReader, there: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """A connection that publishes does nothing else, so an answer of ours comes between no others."""
        commands = Reader()
        with suppress(OSError):
            while data := await here.read(1 << 16):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    words = cast("list[bytes]", command)
                    if self.is_muffled and words[0].upper() in _PUBLISHES:
                        self.swallowed += 1
                        back.write(_NOBODY_HEARD)
                    else:
                        there.write(_encoded(words))
                await there.drain()


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()


def _encoded(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@asynccontextmanager
async def muffler() -> AsyncGenerator[Muffler]:
    between = Muffler()
    server = await asyncio.start_server(between.connected, "127.0.0.1", 0)
    between.port = server.sockets[0].getsockname()[1]
    try:
        yield between
    finally:
        server.close()
        between.hang_up()
        await server.wait_closed()
