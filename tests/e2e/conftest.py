"""One server for all tests that leave it running, each test in a tenant of its own."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from cluster.programs import Server
from tests.e2e.client import Client, client_of
from tests.e2e.server import serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    async with serving(tmp_path_factory.mktemp("e2e"), DEMO_DELAY_MS="10") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def client(server: Server) -> AsyncGenerator[Client]:
    async with client_of(server.url, tenant=f"one-{uuid7()}") as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(server: Server) -> AsyncGenerator[Client]:
    """Somebody of another tenant."""
    async with client_of(server.url, tenant=f"other-{uuid7()}") as client:
        yield client
