"""Fixtures that every folder of tests may ask for."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.postgres import NoPostgres, fresh_database, postgres
from cluster.redis import NoRedis, redis
from db.engine import Database
from db.migrate import upgrade
from streams.bus import Bus, MemoryBus
from tests.db.patience import PATIENT
from tests.rig import Rig, rig
from tests.streams.buses import redis_bus, running


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """One server for all tests, as an administrator's URL; take databases from `cluster.postgres.fresh_database`."""
    try:
        with postgres() as url:
            yield url
    except NoPostgres as missing:
        pytest.exit(str(missing), returncode=1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_template(postgres_url: str) -> AsyncGenerator[str]:
    """A migrated database with nobody connected, to copy."""
    async with fresh_database(postgres_url) as url:
        database = Database.open(url)
        await upgrade(database)
        await database.close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def postgres_to_copy(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """Server and template for the tests' PostgreSQL half; asked for only then, so that the SQLite half starts no server."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_template")


@pytest_asyncio.fixture
async def database_url(postgres_to_copy: tuple[str, str] | None, tmp_path: Path) -> AsyncGenerator[str]:
    """An empty, migrated database of either kind."""
    if postgres_to_copy is not None:
        server, template = postgres_to_copy
        async with fresh_database(server, template=template) as url:
            yield url
        return
    url = f"sqlite+aiosqlite:///{tmp_path}/parley.db"
    database = Database.open(url)
    await upgrade(database)
    await database.close()
    yield url


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    opened = Database.open(database_url, postgres=PATIENT)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def redis_url() -> Generator[str]:
    """One server for all tests, who each take channels of their own."""
    try:
        with redis() as url:
            yield url
    except NoRedis as missing:
        pytest.exit(str(missing), returncode=1)


@pytest.fixture
def redis_to_share(request: pytest.FixtureRequest, postgres_to_copy: tuple[str, str] | None) -> str | None:
    """PostgreSQL goes with Redis, SQLite with the bus in memory."""
    return None if postgres_to_copy is None else request.getfixturevalue("redis_url")


@pytest_asyncio.fixture
async def bus(redis_to_share: str | None) -> AsyncGenerator[Bus]:
    """That which goes with `database`, running."""
    async with running(MemoryBus() if redis_to_share is None else redis_bus(redis_to_share)) as started:
        yield started


@pytest_asyncio.fixture
async def parley(database: Database, bus: Bus) -> AsyncGenerator[Rig]:
    """The whole engine on either database with its bus, with the scripted model at no delay."""
    async with rig(database, bus=bus) as running_rig:
        yield running_rig
