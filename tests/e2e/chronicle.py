"""A SQLite database that keeps a copy of itself as of every commit, so that a query can be asked at any moment of the past.

A query reads a conversation first and then, in other statements, what belongs to it; between any two of them anything may be
committed. `Torn` makes that happen.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from db.engine import Connection, Database


class Chronicle(Database):
    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.copies: list[Path] = []
        self._one_at_a_time = asyncio.Lock()
        self._grown = asyncio.Event()

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        async with self._one_at_a_time:
            async with super().write() as connection:
                yield connection
            self._copy()
            if committed is not None:
                committed()

    async def longer_than(self, commits: int) -> None:
        while len(self.copies) <= commits:
            await self._grown.wait()

    def _copy(self) -> None:
        source = self.url.database
        assert source is not None
        copy = Path(f"{source}.{len(self.copies)}.db")
        with closing(sqlite3.connect(source)) as now, closing(sqlite3.connect(copy)) as kept:
            kept.execute("PRAGMA synchronous = OFF")
            now.backup(kept)
        self.copies.append(copy)
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


class Torn(Database):
    """Answers every read from the next of these states, and when there is no next, from the last again."""

    def __init__(self, *states: Database) -> None:
        self._states = chain(states, repeat(states[-1]))

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection]:
        async with next(self._states).read() as connection:
            yield connection


@asynccontextmanager
async def opened(copy: Path) -> AsyncGenerator[Database]:
    database = Database.open(f"sqlite+aiosqlite:///{copy}")
    try:
        yield database
    finally:
        await database.close()
