"""A server as users run it: `python app.py` in a process of its own, on a free port of the loopback, watched through /proc."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_S = 30.0
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    url: str
    pid: int

    def resident_kib(self) -> int:
        """What of its memory is in the machine's."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def cpu_s(self) -> float:
        """Processor time so far, of all its threads, to a hundredth of a second."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(database_url: str, **settings: str) -> AsyncGenerator[ServerProcess]:
    """Ended by its own pid. Nothing of our environment is passed on: a key there would change the default model."""
    environment = {"PORT": "0", "DATABASE_URL": database_url, "LOG_LEVEL": "WARNING", **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "app.py", cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            url = await _address(process.stderr)
        passing_on = asyncio.create_task(_pass_on(process.stderr), name="the server's stderr")
        yield ServerProcess(url, process.pid)
        process.terminate()
        async with asyncio.timeout(STOP_S):
            await passing_on
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _address(stderr: asyncio.StreamReader) -> str:
    async for line in stderr:
        if (told := line.decode()).startswith("Parley is at "):
            return told.split()[-1]
        sys.stderr.write(told)
    raise SystemExit("the server did not start")


async def _pass_on(stderr: asyncio.StreamReader) -> None:
    async for line in stderr:
        sys.stderr.write(line.decode())
