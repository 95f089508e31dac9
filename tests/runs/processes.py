"""Programs of ours as processes of their own, on the servers of the tests: what can be killed, stopped and told to leave."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
START_S = 30.0

LOCK_AND_STOP = """
import asyncio, os, signal, sys
from db import heads
from db.engine import Database

async def main(url, conversation_id):
    database = Database.open(url)
    async with database.write() as connection:
        await heads.lock(connection, conversation_id)
        sys.stderr.write("Working as one that holds a lock\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where a process finds its database and its bus."""

    database_url: str
    redis_url: str


class Running:
    def __init__(self, process: Process) -> None:
        self.process = process

    def signal(self, signal_: signal.Signals) -> None:
        self.process.send_signal(signal_)

    async def ended(self, *, within_s: float) -> int:
        """Its exit code."""
        async with asyncio.timeout(within_s):
            return await self.process.wait()


@asynccontextmanager
async def worker(servers: Servers, **settings: str) -> AsyncGenerator[Running]:
    """`python -m runs`, ready to take jobs. Its lease is short, so that its death is soon noticed."""
    given = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url, "LEASE_S": "1", "DEMO_DELAY_MS": "10", **settings}
    async with started([sys.executable, "-m", "runs"], given) as running:
        yield running


@asynccontextmanager
async def stopped_with_a_lock(servers: Servers, conversation_id: str) -> AsyncGenerator[Running]:
    """A process that was stopped in the middle of a transaction that holds the conversation's head."""
    command = [sys.executable, "-c", LOCK_AND_STOP, servers.database_url, conversation_id]
    async with started(command, {"PYTHONPATH": str(ROOT)}) as running:
        yield running


@asynccontextmanager
async def started(command: list[str], environment: dict[str, str]) -> AsyncGenerator[Running]:
    """Says that it works; nothing of its process group is left behind. What it said is said again at the end."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={"PATH": os.environ["PATH"], **environment}, stderr=PIPE, start_new_session=True
    )
    assert process.stderr is not None
    said: list[bytes] = []
    reading = None
    try:
        async with asyncio.timeout(START_S):
            while not (said and said[-1].startswith(b"Working")):
                line = await process.stderr.readline()
                said.append(line)
                assert line, "it ended before it began to work"
        reading = asyncio.create_task(_read(process.stderr, said), name="stderr of a process")
        yield Running(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if reading is not None:
            await reading
        sys.stderr.write(b"".join(said).decode(errors="replace"))


async def _read(stream: asyncio.StreamReader, said: list[bytes]) -> None:
    while line := await stream.readline():
        said.append(line)
