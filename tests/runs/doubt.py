"""What gets lost: the outcome of commits (databases that keep it to themselves or die with it, a TCP proxy that cuts the wire), and jobs.

The proxy understands as much of PostgreSQL's protocol as it takes to find the message that says COMMIT.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from itertools import repeat
from typing import Self

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from db.engine import Connection, Database
from streams.log import Transaction

_TLS_REQUEST = 80877103


class Fate(Enum):
    """What becomes of a commit. All but ANSWERED look alike to whoever asked for it."""

    ANSWERED = auto()
    KEPT = auto()
    LOST = auto()
    LATE = auto()  # it happens when the program has already begun to try again


class Doubtful(Database):
    """`fates` of the next commits of the tasks whose name begins with `whose`; none of anybody else's is in doubt.

    `meanwhile`: what happens after such a commit, or instead of it, before whoever asked for it gives up waiting for its outcome.
    """

    whose: str = "nobody"
    fates: Iterator[Fate] = repeat(Fate.ANSWERED)
    meanwhile: Callable[[], Awaitable[None]] | None = None

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        fate = Fate.ANSWERED
        try:
            async with super().write() as connection:
                yield connection
                if (task := asyncio.current_task()) and task.get_name().startswith(self.whose):
                    fate = next(self.fates, Fate.ANSWERED)
                if fate is Fate.LOST:
                    raise _nobody_knows()
            if fate is Fate.KEPT:
                raise _nobody_knows()
        except OperationalError:
            if fate is not Fate.ANSWERED and self.meanwhile is not None:
                await self.meanwhile()
            raise
        if committed is not None:
            committed()


class Mortal(Database):
    """A process that is killed at one of the commits of its worker: from then on it neither reads nor writes. `revive` is the next one."""

    commits_left: int = -1
    keeps_the_last: bool = False
    dead: bool = False
    died: asyncio.Event
    refused: asyncio.Event  # somebody has asked the dead

    def revive(self, *, commits: int = -1, keeps_the_last: bool = False) -> None:
        """It will die at commit number `commits` from now, which happens or not; -1: it lives."""
        self.commits_left, self.keeps_the_last, self.dead = commits, keeps_the_last, False
        self.died, self.refused = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        self._live()
        dies = False
        async with super().write() as connection:
            yield connection
            self._live()
            if (task := asyncio.current_task()) and task.get_name().startswith(("writer", "advance")):
                dies = self.commits_left == 0
                self.commits_left -= 1
            if dies and not self.keeps_the_last:
                self._die()
        if dies:
            self._die()
        if committed is not None:
            committed()

    @asynccontextmanager
    async def write_apart(self) -> AsyncGenerator[Connection]:
        self._live()
        async with super().write_apart() as connection:
            yield connection
            self._live()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection]:
        self._live()
        async with super().read() as connection:
            yield connection

    def _live(self) -> None:
        if self.dead:
            self.refused.set()
            raise _nobody_knows()

    def kill(self) -> None:
        self.dead = True
        self.died.set()

    def _die(self) -> None:
        self.kill()
        raise _nobody_knows()


class Interrupted(Database):
    """`interrupt` is called once, while a commit is on its way of a task whose name begins with `whose`."""

    whose: str = "nobody"
    interrupt: Callable[[], object] = lambda: None

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        async with super().write(committed) as connection:
            yield connection
            if (task := asyncio.current_task()) and task.get_name().startswith(self.whose):
                self.whose = "nobody"
                asyncio.get_running_loop().call_soon(self.interrupt)


class Unheard(Database):
    """While it is `deaf` no heartbeat reaches it, and `missed` counts them; all else does."""

    deaf: bool = False
    missed: int = 0

    @asynccontextmanager
    async def write_apart(self) -> AsyncGenerator[Connection]:
        if self.deaf:
            self.missed += 1
            raise _nobody_knows()
        async with super().write_apart() as connection:
            yield connection


class Wordless(Database):
    """While it is `mute` what a worker's writer writes is not taken, and `refused` is set; all else is."""

    mute: bool = False
    refused: asyncio.Event

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        if self.mute and (task := asyncio.current_task()) and task.get_name().startswith("writer"):
            self.refused.set()
            raise _nobody_knows()
        async with super().write(committed) as connection:
            yield connection


def _nobody_knows() -> OperationalError:
    return OperationalError("COMMIT", None, ConnectionError("the connection was lost"))


class Forgetful:
    """A dispatcher whose jobs get lost."""

    async def defer(self, transaction: Transaction, conversation_id: str) -> None:
        pass


class Proxy:
    """Stands between the program and its PostgreSQL, and cuts the wire when `cut` has asked for it."""

    def __init__(self, url: str) -> None:
        self._upstream = make_url(url)
        self._marked = self._again = b""
        self._fates = iter(list[Fate]())
        self._tries_again = asyncio.Event()
        self._tasks = set[asyncio.Task[None]]()
        self.cuts = 0

    def cut(self, marked: bytes, fates: Iterable[Fate], *, again: bytes) -> None:
        """The fates of the next commits whose transactions have sent `marked`. A late one waits for somebody to send `again`."""
        self._marked, self._fates, self._again = marked, iter(fates), again

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return self._upstream.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="proxied connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._upstream.host
        answers, server = await asyncio.open_connection(self._upstream.host, self._upstream.port)
        passing_on = asyncio.create_task(_pass_on(answers, writer), name="answers of the database")
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await _pass_on_startup(reader, server)
                fate, commit = await self._up_to_a_doubt(reader, server)
                self.cuts += 1
                await _stopped(passing_on)
                if fate is Fate.LATE:
                    writer.transport.abort()
                    self._tries_again.clear()
                    await self._tries_again.wait()
                if fate is not Fate.LOST:
                    await _done(commit, answers, server)
        finally:
            await _stopped(passing_on)
            for end in (writer, server):
                end.transport.abort()

    async def _up_to_a_doubt(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> tuple[Fate, bytes]:
        """Passes on what the program says until a commit is not to be answered. Raises IncompleteReadError when it leaves."""
        sent = b""
        while True:
            message = await _message(reader)
            sent = b"" if message[5:].startswith(b"BEGIN") else sent + message
            commits = message[:1] == b"Q" and message[5:].startswith(b"COMMIT") and self._marked in sent
            if commits and (fate := next(self._fates, Fate.ANSWERED)) is not Fate.ANSWERED:
                return fate, message
            server.write(message)
            await server.drain()
            if self._again and self._again in message:
                self._tries_again.set()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


async def _pass_on_startup(reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
    """Messages without a kind: maybe a request for TLS, then the real one."""
    while True:
        head = await reader.readexactly(8)
        server.write(head + await reader.readexactly(int.from_bytes(head[:4]) - 8))
        if int.from_bytes(head[4:]) != _TLS_REQUEST:
            return


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


async def _done(commit: bytes, answers: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
    """Returns when the database has committed: the farewell that it is sent behind the commit makes it hang up."""
    server.write(commit + b"X" + (4).to_bytes(4))
    await server.drain()
    await answers.read()


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
