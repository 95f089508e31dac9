"""The program itself, as its user starts it: `python app.py` in a process of its own, on a free port, with a database of the test's.

It inherits nothing from the test run's environment but the path. What it writes to stderr is written to ours at the end, where
pytest shows it beside a failure.
"""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from os import environ, killpg
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
START_S = 40.0
STOP_S = 2.0

_ADDRESS = re.compile(r"http://\S+/graphql")


@dataclass(frozen=True, slots=True)
class Server:
    """`url` is that of `/graphql`. `said`: stderr so far, line by line."""

    url: str
    process: Process
    said: list[str] = field(default_factory=list[str])

    @property
    def pid(self) -> int:
        return self.process.pid

    async def stopped(self, signal_: signal.Signals = signal.SIGINT) -> int:
        """Sends the signal to the whole group, as a terminal does; the exit code. Raises TimeoutError when it takes too long."""
        killpg(self.pid, signal_)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()

    async def killed(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncGenerator[Server]:
    """A server with its database in `folder`: give the same folder again to start it again."""
    given = {"PORT": "0", "HOST": "127.0.0.1", "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/parley.db", "DEMO_DELAY_MS": "1", **settings}
    async with started([sys.executable, "app.py"], folder=ROOT, environment=given) as server:
        yield server
        if server.process.returncode is None:
            assert await server.stopped() == 0


@asynccontextmanager
async def started(command: list[str], *, folder: Path, environment: Mapping[str, str], start_s: float = START_S) -> AsyncGenerator[Server]:
    """Any command that ends up serving, in a process group of its own; nothing of the group is left behind."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={"PATH": environ["PATH"], **environment}, stderr=PIPE, start_new_session=True
    )
    said: list[str] = []
    reading = None
    try:
        async with asyncio.timeout(start_s):
            url = await _address(process, said)
        reading = asyncio.create_task(_read_on(process, said), name="stderr of the server")
        yield Server(url, process, said)
    finally:
        with suppress(ProcessLookupError):
            killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if reading is not None:
            await reading
        sys.stderr.writelines(said)


async def _address(process: Process, said: list[str]) -> str:
    """The address that it prints. Raises EOFError when it ends without."""
    while line := await _line(process):
        said.append(line)
        if found := _ADDRESS.search(line):
            return found[0]
    raise EOFError("the server ended before it said where it is")


async def _read_on(process: Process, said: list[str]) -> None:
    while line := await _line(process):
        said.append(line)


async def _line(process: Process) -> str:
    assert process.stderr is not None
    return (await process.stderr.readline()).decode()
