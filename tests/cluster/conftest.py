"""The programs, together: one topology for all tests of a module that leave it running."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from cluster.topology import Topology, topology


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncGenerator[Topology]:
    async with topology(LEASE_S="5", DEMO_DELAY_MS="10") as running:
        yield running
