"""What a benchmark stands on: databases that are made for it and thrown away, on a real disk or on a real server."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile

from cluster.postgres import PostgresServer, execute, fresh_database
from cluster.redis import redis
from db.engine import Database
from db.migrate import upgrade
from llm.registry import ModelRegistry
from runs.tools.registry import ServerTool
from tests.rig import Rig, rig
from tests.runs.processes import Servers

SQLITE = "SQLite"
POSTGRESQL = "PostgreSQL"


@dataclass(frozen=True, slots=True)
class Ground:
    """`directory`: where files may lie. `postgres`: a URL under which databases may be created and dropped."""

    directory: Path
    postgres: str | None

    @property
    def kinds(self) -> tuple[str, ...]:
        return (SQLITE,) if self.postgres is None else (SQLITE, POSTGRESQL)

    @asynccontextmanager
    async def engine(self, kind: str, models: ModelRegistry, *, tools: Sequence[ServerTool] = ()) -> AsyncGenerator[Rig]:
        """The engine without its API, on an empty database."""
        async with self.url(kind) as url:
            database = Database.open(url)
            try:
                await upgrade(database)
                async with rig(database, models=models, tools=tools) as parley:
                    yield parley
            finally:
                await database.close()

    @asynccontextmanager
    async def servers(self) -> AsyncGenerator[Servers]:
        """An empty database on PostgreSQL and a Redis, for programs of several processes."""
        with redis() as redis_url:
            async with self.url(POSTGRESQL) as url:
                database = Database.open(url)
                await upgrade(database)
                await database.close()
                yield Servers(url, redis_url)

    @asynccontextmanager
    async def url(self, kind: str) -> AsyncGenerator[str]:
        """Of an empty database, without tables."""
        if kind == POSTGRESQL and self.postgres is not None:
            async with fresh_database(self.postgres) as url:
                yield url
        else:
            with self.file() as path:
                yield sqlite_url(path)

    @contextmanager
    def file(self) -> Generator[Path]:
        """Where a SQLite database may be made."""
        with TemporaryDirectory(dir=self.directory, prefix="parley-bench-", ignore_cleanup_errors=True) as directory:
            yield Path(directory) / "parley.db"

    def sync_ms(self) -> float:
        """How long this disk takes to keep what it was given: what a commit cannot be faster than."""
        with TemporaryFile(dir=self.directory) as file:
            return median(_sync_ms(file.fileno()) for _ in range(50))


def sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def _sync_ms(descriptor: int) -> float:
    started = time.perf_counter()
    os.pwrite(descriptor, bytes(4096), 0)
    os.fdatasync(descriptor)
    return (time.perf_counter() - started) * 1000


@contextmanager
def throwaway_postgres() -> Generator[str]:
    """A server of the machine or of the wheel, made as the tests make theirs, but one that syncs to disk. Raises NoPostgres."""
    with PostgresServer.running() as server:
        asyncio.run(_make_durable(server.url))
        yield server.url


async def _make_durable(url: str) -> None:
    for setting in ("fsync", "full_page_writes"):
        await execute(url, f"ALTER SYSTEM SET {setting} = on")
    await execute(url, "SELECT pg_reload_conf()")
