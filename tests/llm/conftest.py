"""A stub provider and a registry that knows it as `local`, with a short patience."""

from collections.abc import AsyncGenerator

import pytest

from llm.endpoints import CompatibleServer, Timeouts
from llm.model import Model
from llm.registry import ModelRegistry
from tests.provider import Provider


@pytest.fixture
async def provider() -> AsyncGenerator[Provider]:
    async with Provider() as running:
        yield running


@pytest.fixture
async def registry(provider: Provider) -> AsyncGenerator[ModelRegistry]:
    made = ModelRegistry(
        api_keys={"openai": "key-o", "anthropic": "key-a", "google": "key-g"},
        base_urls={"openai": provider.base_url, "anthropic": provider.url, "google": provider.url},
        servers={"local": CompatibleServer(base_url=provider.base_url, api_key="key-l")},
        timeouts=Timeouts(connect_s=5, idle_s=20),
    )
    yield made
    await made.aclose()


@pytest.fixture
def local(registry: ModelRegistry) -> Model:
    return registry.resolve("local/qwen3")


@pytest.fixture
async def impatient(provider: Provider) -> AsyncGenerator[Model]:
    """The same server, by a client that waits a moment only."""
    made = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)}, timeouts=Timeouts(first_token_s=1, idle_s=1))
    yield made.resolve("local/qwen3")
    await made.aclose()
