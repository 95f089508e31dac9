"""Handles (`provider/name`) to models. A provider's library is loaded, in a thread, when one of its models is first asked.

Refusing an unknown handle and telling about models need no library, so a process that calls no model never loads one.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from llm import demo
from llm.endpoints import CompatibleServer, Endpoint, Protocol, Timeouts
from llm.known import KNOWN, PROTOCOLS
from llm.model import Failed, Model, ModelEvent, ModelInfo, ModelRequest
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunError, RunErrorType, Usage

if TYPE_CHECKING:
    from llm.providers import Providers

log = structlog.stdlib.get_logger()

DEFAULT_CONTEXT_WINDOW = 128_000


class ModelNotFound(Exception):
    """No provider of that name, no key for it, or not `provider/name` at all."""

    def __init__(self, handle: str) -> None:
        super().__init__(f"no model {handle!r}")
        self.handle = handle


class ModelRegistry:
    def __init__(
        self,
        *,
        api_keys: Mapping[str, str] | None = None,
        servers: Mapping[str, CompatibleServer] | None = None,
        demo_delay_ms: float = 20,
        default_context_window: int = DEFAULT_CONTEXT_WINDOW,
        timeouts: Timeouts | None = None,
        base_urls: Mapping[str, str] | None = None,
    ) -> None:
        """`api_keys` by provider: openai, anthropic, google; `base_urls` replace the provider's own. `servers` by names of their own."""
        self._servers = dict(servers or {})
        self._endpoints = _cloud(api_keys or {}, base_urls or {}) | _compatible(self._servers)
        self._demo = demo.DemoModel(demo_delay_ms)
        self._default_context_window = default_context_window
        self._timeouts = timeouts or Timeouts()
        self._providers: Providers | None = None
        self._loading = asyncio.Lock()

    def resolve(self, handle: str) -> Model:
        """Raises ModelNotFound. Nothing is loaded and nobody is asked yet."""
        if handle == self._demo.handle:
            return self._demo
        endpoint, name = self._find(handle)
        return RemoteModel(handle, lambda: self._load(endpoint, name))

    def info(self, handle: str) -> ModelInfo:
        """Raises ModelNotFound."""
        if handle == self._demo.handle:
            return demo.INFO
        endpoint, name = self._find(handle)
        return self._info(endpoint.provider, name)

    def window(self, handle: str, settings: ModelSettings) -> int:
        """How many tokens the model may be shown: as the settings say, else as is known of it, whoever may have lost its key since."""
        if settings.context_window is not None:
            return settings.context_window
        try:
            return self.info(handle).context_window
        except ModelNotFound:
            return self._default_context_window

    def models(self) -> tuple[ModelInfo, ...]:
        """Those with a name here; a provider accepts others, too."""
        return (demo.INFO, *(self._info(provider, name) for provider, name in self._named()))

    async def aclose(self) -> None:
        """Closes the connections to all providers; calls that still run fail."""
        async with self._loading:
            providers, self._providers = self._providers, None
        if providers is not None:
            await providers.aclose()

    def _find(self, handle: str) -> tuple[Endpoint, str]:
        provider, _, name = handle.partition("/")
        endpoint = self._endpoints.get(provider)
        if endpoint is None or not name or name != "".join(name.split()):
            raise ModelNotFound(handle)
        return endpoint, name

    def _info(self, provider: str, name: str) -> ModelInfo:
        known = KNOWN.get(provider, {}).get(name)
        served = self._servers[provider].models.get(name) if provider in self._servers else None
        window = known or served
        return ModelInfo(
            handle=f"{provider}/{name}",
            provider=provider,
            name=name,
            context_window=window.context_window if window else self._default_context_window,
            supports_tools=True,
            supports_reasoning=known.supports_reasoning if known else True,
        )

    def _named(self) -> Iterator[tuple[str, str]]:
        for provider in self._endpoints:
            names = self._servers[provider].models if provider in self._servers else KNOWN[provider]
            yield from ((provider, name) for name in names)

    async def _load(self, endpoint: Endpoint, name: str) -> Model:
        async with self._loading:
            if self._providers is None:
                self._providers = await asyncio.to_thread(_providers, self._timeouts)
            return await asyncio.to_thread(self._providers.model, endpoint, name)


class RemoteModel:
    """A model behind a provider's library, which the first call loads."""

    def __init__(self, handle: str, load: Callable[[], Awaitable[Model]]) -> None:
        self._handle = handle
        self._load = load
        self._loaded: Model | None = None

    @property
    def handle(self) -> str:
        return self._handle

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        try:
            model = self._loaded = self._loaded or await self._load()
        except Exception as failure:
            log.warning("a model's library could not be loaded", model=self._handle, exc_info=True)
            yield Failed(RunError(RunErrorType.INTERNAL, f"The model could not be loaded: {failure}"), Usage(requests=1, estimated=True))
            return
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                yield event


def _cloud(api_keys: Mapping[str, str], base_urls: Mapping[str, str]) -> dict[str, Endpoint]:
    return {
        provider: Endpoint(provider=provider, protocol=protocol, api_key=api_keys[provider], base_url=base_urls.get(provider))
        for provider, protocol in PROTOCOLS.items()
        if provider in api_keys
    }


def _compatible(servers: Mapping[str, CompatibleServer]) -> dict[str, Endpoint]:
    return {
        provider: Endpoint(provider=provider, protocol=Protocol.CHAT_COMPLETIONS, api_key=server.api_key, base_url=server.base_url)
        for provider, server in servers.items()
    }


def _providers(timeouts: Timeouts) -> "Providers":
    from llm.providers import Providers

    return Providers(timeouts)
