"""The providers' clients over one HTTP client, each made when it is first needed. Loading their libraries takes seconds.

No client tries again by itself: what a failure leads to is decided by the engine, which tells the user.
"""

from typing import assert_never

import httpx2
from pydantic_ai.models import Model as ProviderModel
from pydantic_ai.models import create_async_httpx2_client

from llm.adapter import AdaptedModel
from llm.endpoints import Endpoint, Protocol, Timeouts

NO_KEY = "none"

LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=4)
"""An idle connection goes before the five seconds after which servers that are built on uvicorn close it: no request shall meet that."""


class Providers:
    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        read_s = max(timeouts.first_token_s, timeouts.idle_s)  # the adapter knows which of them counts
        self._http = create_async_httpx2_client(timeout=httpx2.Timeout(read_s, connect=timeouts.connect_s), limits=LIMITS)

    async def aclose(self) -> None:
        await self._http.aclose()

    def model(self, endpoint: Endpoint, name: str) -> AdaptedModel:
        """Slow the first time for each protocol, and blocking: call it in a thread."""
        model = self._provider_model(endpoint, name)
        return AdaptedModel(f"{endpoint.provider}/{name}", model, endpoint.protocol, self._timeouts)

    def _provider_model(self, endpoint: Endpoint, name: str) -> ProviderModel:
        match endpoint.protocol:
            case Protocol.CHAT_COMPLETIONS:
                return _chat_completions(endpoint, name, self._http)
            case Protocol.RESPONSES:
                return _responses(endpoint, name, self._http)
            case Protocol.ANTHROPIC:
                return _anthropic(endpoint, name, self._http)
            case Protocol.GOOGLE:
                return _google(endpoint, name, self._http)
            case _:
                assert_never(endpoint.protocol)


def _chat_completions(endpoint: Endpoint, name: str, http: httpx2.AsyncClient) -> ProviderModel:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    client = AsyncOpenAI(api_key=endpoint.api_key or NO_KEY, base_url=endpoint.base_url, http_client=http, max_retries=0)
    profile = OpenAIModelProfile(
        openai_chat_streaming_requires_finish_reason=True,  # without it a connection that was cut looks like a short answer
        openai_chat_supports_max_completion_tokens=False,  # `max_tokens` is what all servers understand
    )
    return OpenAIChatModel(name, provider=OpenAICompatibleProvider(endpoint.provider, openai_client=client, profile=profile))


def _responses(endpoint: Endpoint, name: str, http: httpx2.AsyncClient) -> ProviderModel:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(api_key=endpoint.api_key, base_url=endpoint.base_url, http_client=http, max_retries=0)
    return OpenAIResponsesModel(name, provider=OpenAIProvider(openai_client=client))


def _anthropic(endpoint: Endpoint, name: str, http: httpx2.AsyncClient) -> ProviderModel:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = AsyncAnthropic(api_key=endpoint.api_key, base_url=endpoint.base_url, http_client=http, max_retries=0)
    return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))


def _google(endpoint: Endpoint, name: str, http: httpx2.AsyncClient) -> ProviderModel:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    return GoogleModel(name, provider=GoogleProvider(api_key=endpoint.api_key or NO_KEY, base_url=endpoint.base_url, http_client=http))
