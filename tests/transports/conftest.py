"""One world and one server for each test."""

from collections.abc import AsyncGenerator

import pytest

from tests.transports.counting import World, schema
from tests.transports.serving import Served, serving
from transports.terms import Terms


@pytest.fixture
async def served() -> AsyncGenerator[Served]:
    world = World()
    terms = Terms(
        schema=schema,
        context_of=world.context_of,
        allowed_origins=("https://friend.example",),
        max_request_bytes=16 * 1024,
        max_operations_per_socket=3,
    )
    async with serving(world, terms) as served:
        yield served
