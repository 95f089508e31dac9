"""A database that can be away for a while, as far as readers see."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from db.engine import Connection, Database


class FailingDatabase(Database):
    """Its reads fail so many times; `recovered` is set when they have."""

    failures: int = 0
    recovered: asyncio.Event

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection]:
        if self.failures:
            self.failures -= 1
            if not self.failures:
                self.recovered.set()
            raise ConnectionRefusedError
        async with super().read() as connection:
            yield connection
