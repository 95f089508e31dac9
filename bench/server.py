"""A server as users run it: `python app.py` in a process of its own, on a free port of the loopback, watched through /proc."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.programs import Server, started


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
    environment = {"PORT": "0", "DATABASE_URL": database_url, "LOG_LEVEL": "WARNING", **settings}
    async with started(Server("server", [sys.executable, "app.py"], environment)) as server:
        yield ServerProcess(server.url, server.pid)
