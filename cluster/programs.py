"""A program of ours as its user starts it: a process in a group of its own, that can be told to leave, stopped, killed and started again.

It inherits nothing of our environment but the path: a key there would change the default model. What it writes to stderr is kept
line by line, and passed on to ours once it is ready. What the programs are, and how they hang together, is told in `topology.py`.
"""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

ROOT = Path(__file__).parent.parent
START_S = 40.0
STOP_S = 15.0  # a worker gives itself eight seconds to hand over


class DidNotStart(Exception):
    """It ended before it was ready, or took too long; the message is one line with its last words."""


class Program:
    """`ready`: a pattern in the line on stderr that says so; what its group holds is kept in `announced`. `said`: since its last start."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], *, ready: str = "", folder: Path = ROOT, passes_on: bool = True
    ) -> None:
        self.name = name
        self.announced = ""
        self.said: list[str] = []
        self._command, self._environment, self._folder = command, environment, folder
        self._ready = re.compile(ready)
        self._passes_on = passes_on
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def returncode(self) -> int | None:
        """None: it runs."""
        return self._started.returncode

    async def start(self, *, within_s: float = START_S, **settings: str) -> Self:
        """Returns when it is ready. `settings` are added to its environment, this time only. Raises DidNotStart."""
        process = await self._spawn(settings)
        try:
            async with asyncio.timeout(within_s):
                self.announced = await self._readiness(process)
        except TimeoutError:
            raise DidNotStart(f"{self.name} was not ready within {within_s:g} s{self._last_words()}") from None
        self._reading = asyncio.create_task(self._read_on(process), name=f"stderr of {self.name}")
        return self

    async def run(self, *, within_s: float = START_S) -> None:
        """From its beginning to its end. Raises DidNotStart when that is not a good one."""
        process = await self._spawn({})
        try:
            async with asyncio.timeout(within_s):
                await self._read_on(process)
                code = await process.wait()
        except TimeoutError:
            raise DidNotStart(f"{self.name} was not done within {within_s:g} s{self._last_words()}") from None
        finally:
            await self.kill()
        if code:
            raise DidNotStart(f"{self.name} failed{self._last_words()}")

    def signal(self, number: signal.Signals) -> None:
        """To the whole group, as a terminal does."""
        os.killpg(self.pid, number)

    async def ended(self, *, within_s: float = STOP_S) -> int:
        """Its exit code, when everything that it said has been read. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            code = await self._started.wait()
            if self._reading is not None:
                await self._reading
        return code

    async def terminate(self, *, within_s: float = STOP_S) -> int:
        """SIGTERM; its exit code. Raises TimeoutError."""
        self.signal(signal.SIGTERM)
        return await self.ended(within_s=within_s)

    async def kill(self) -> None:
        """SIGKILL to the whole group, also when its leader has ended already."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            await self.ended()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    async def close(self) -> None:
        """In good order when it can, at once when it cannot; nothing of its group is left behind."""
        if self._reading is not None and self.returncode is None:
            with suppress(TimeoutError, ProcessLookupError):
                self.thaw()
                await self.terminate()
        await self.kill()

    @property
    def _started(self) -> Process:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    async def _spawn(self, settings: Mapping[str, str]) -> Process:
        self._reading, self.said = None, []
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], **self._environment, **settings},
            stdin=DEVNULL,
            stderr=PIPE,
            start_new_session=True,
        )
        return self._process

    async def _readiness(self, process: Process) -> str:
        while line := await self._line(process):
            if found := self._ready.search(line):
                return found[1] if found.groups() else found[0]
        raise DidNotStart(f"{self.name} did not start{self._last_words()}")

    async def _read_on(self, process: Process) -> None:
        while line := await self._line(process):
            if self._passes_on:
                sys.stderr.write(f"{self.name}: {line}")

    async def _line(self, process: Process) -> str:
        assert process.stderr is not None
        if line := (await process.stderr.readline()).decode(errors="replace"):
            self.said.append(line)
        return line

    def _last_words(self) -> str:
        return f": {' '.join(self.said[-1].split())}" if self.said else ""


class Server(Program):
    """One that says where it serves."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], *, folder: Path = ROOT) -> None:
        super().__init__(name, command, environment, ready=r"http://\S+/graphql", folder=folder)

    @property
    def url(self) -> str:
        """Of `/graphql`."""
        return self.announced


AnyProgram = TypeVar("AnyProgram", bound=Program)


@asynccontextmanager
async def started(program: AnyProgram, *, within_s: float = START_S) -> AsyncGenerator[AnyProgram]:
    """Raises DidNotStart."""
    try:
        yield await program.start(within_s=within_s)
    finally:
        await program.close()
