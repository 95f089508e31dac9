"""Redis servers of other kinds than the one that all tests share."""

from collections.abc import AsyncGenerator, Generator

import pytest
import pytest_asyncio

from cluster.redis import RedisServer
from streams.bus import Bus, MemoryBus
from tests.streams.buses import redis_bus, running


@pytest.fixture
def server() -> Generator[RedisServer]:
    """For a test that stops it, or worse."""
    with RedisServer.running() as started:
        yield started


@pytest.fixture(scope="session")
def cluster() -> Generator[RedisServer]:
    """A cluster of one node, which holds all slots."""
    with RedisServer.running(cluster=True) as started:
        started.form_cluster()
        yield started


@pytest.fixture(params=["memory", "redis", "redis-cluster"])
def made_bus(request: pytest.FixtureRequest) -> Bus:
    match request.param:
        case "memory":
            return MemoryBus()
        case "redis":
            return redis_bus(request.getfixturevalue("redis_url"))
        case _:
            return redis_bus(request.getfixturevalue("cluster").url, cluster=True)


@pytest_asyncio.fixture
async def any_bus(made_bus: Bus) -> AsyncGenerator[Bus]:
    """Each implementation, running."""
    async with running(made_bus) as started:
        yield started
