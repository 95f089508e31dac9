"""A provider on loopback, the whole engine with a registry that knows it as `local` and asks it once, and a database that can die."""

from collections.abc import AsyncGenerator

import pytest

from db.engine import Database
from llm.backoff import RetryLimits
from llm.endpoints import CompatibleServer, Timeouts
from llm.registry import ModelRegistry
from runs.tools.registry import Arguments, ServerTool, ToolContext
from tests.db.patience import PATIENT
from tests.db.rows import NOON
from tests.provider import Provider
from tests.rig import Rig, rig
from tests.runs.doubt import Doubtful, Interrupted, Mortal


async def _time(_arguments: Arguments, _context: ToolContext) -> str:
    return NOON.isoformat()


FORGIVING_CLOCK = ServerTool(name="current_time", description="The time.", parameters={"type": "object"}, run=_time)
"""Takes whatever arguments a script has chosen for being long."""


@pytest.fixture
async def provider() -> AsyncGenerator[Provider]:
    async with Provider() as running:
        yield running


@pytest.fixture
def patience_s() -> float:
    """How long the engine waits for the provider's next word; a test that lets it stall takes less."""
    return 20


@pytest.fixture
async def remote(database: Database, provider: Provider, patience_s: float) -> AsyncGenerator[Rig]:
    local = CompatibleServer(base_url=provider.base_url, api_key="key-l")
    models = ModelRegistry(servers={"local": local}, timeouts=Timeouts(first_token_s=patience_s, idle_s=patience_s))
    async with rig(database, models=models, tools=[FORGIVING_CLOCK], retries=RetryLimits(retries=0)) as running:
        yield running


@pytest.fixture
async def mortal(database_url: str) -> AsyncGenerator[Mortal]:
    """The test's database, for an engine that is to die at one of its commits."""
    opened = Mortal.open(database_url, postgres=PATIENT)
    opened.revive()
    yield opened
    await opened.close()


@pytest.fixture
async def interrupted(database_url: str) -> AsyncGenerator[Interrupted]:
    """The test's database, for a task that is cancelled in the middle of a commit."""
    opened = Interrupted.open(database_url, postgres=PATIENT)
    yield opened
    await opened.close()


@pytest.fixture
async def doubtful(database_url: str) -> AsyncGenerator[Doubtful]:
    """The test's database; no commit is in doubt until its fates are told."""
    opened = Doubtful.open(database_url, postgres=PATIENT)
    yield opened
    await opened.close()
