"""The server as its user starts it, with SQLite: a process of its own, on a free port, with a database of the test's."""

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.programs import Server, started

STOP_S = 10.0


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncGenerator[Server]:
    """A server with its database in `folder`: give the same folder again to start it again."""
    given = {"PORT": "0", "HOST": "127.0.0.1", "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/parley.db", "DEMO_DELAY_MS": "1", **settings}
    async with started(Server("server", [sys.executable, "app.py"], given)) as server:
        yield server
        if server.returncode is None:
            assert await stopped(server) == 0


async def stopped(server: Server, signal_: signal.Signals = signal.SIGINT) -> int:
    """Its exit code. Raises TimeoutError when it takes too long."""
    server.signal(signal_)
    return await server.ended(within_s=STOP_S)
