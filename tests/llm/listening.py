"""Every provider at once, on loopback: whether each of them would take a request."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from llm.endpoints import CompatibleServer
from llm.model import ModelRequest
from llm.registry import ModelRegistry
from tests.llm.formats import CHECKS, check
from tests.llm.reading import answer
from tests.provider import Answer as ProvidersAnswer
from tests.provider import Provider, Request
from vocabulary.model_settings import ModelSettings


class Providers:
    """Whether each of them would take a request."""

    def __init__(self, provider: Provider, registry: ModelRegistry) -> None:
        self._provider, self._registry = provider, registry
        provider.otherwise = self._refuse

    def _refuse(self, _: Request) -> ProvidersAnswer:
        return ProvidersAnswer(status=400)

    async def take(self, request: ModelRequest) -> None:
        for handle in CHECKS:
            asked = len(self._provider.requests)
            await answer(self._registry.resolve(handle), replace(request, settings=ModelSettings()))
            assert len(self._provider.requests) == asked + 1
            check(handle, self._provider.requests[-1].body)


@asynccontextmanager
async def listening() -> AsyncGenerator[Providers]:
    async with Provider() as provider:
        registry = ModelRegistry(
            api_keys={"openai": "key-o", "anthropic": "key-a", "google": "key-g"},
            base_urls={"openai": provider.base_url, "anthropic": provider.url, "google": provider.url},
            servers={"local": CompatibleServer(base_url=provider.base_url)},
        )
        yield Providers(provider, registry)
        await registry.aclose()
