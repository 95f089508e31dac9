"""A workshop spoken to in each of the ways there are, and what a call is given."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from db.engine import Database
from runs.tools.registry import Effect, ToolContext
from tests.runs.tools.mcp.workshops import Workshop, workshop
from tests.runs.values import RUN


@pytest.fixture(params=["stdio", "stdio of old", "http", "http of old"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Workshop]:
    over, _, old = request.param.partition(" of ")
    async with workshop(tmp_path, over=over, old=bool(old)) as running:
        yield running


@pytest.fixture
async def context(tmp_path: Path) -> ToolContext:
    async def never(_effect: Effect) -> str:
        raise AssertionError("what another server does is no effect of ours")

    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/unused.db")
    await database.close()
    return ToolContext(run=RUN, agent_id="agent-1", database=database, once=never)
