"""Which handles there are, what is told about them, and that nothing is loaded before it is needed."""

import asyncio
import subprocess
import sys

import pytest

from llm.endpoints import CompatibleServer, ServedModel
from llm.model import Finished
from llm.registry import DEFAULT_CONTEXT_WINDOW, ModelNotFound, ModelRegistry
from tests.llm.reading import answer, request
from tests.provider import Answer, Provider
from vocabulary.runs import RunErrorType

LOCAL = CompatibleServer(base_url="http://127.0.0.1:9/v1", models={"qwen3": ServedModel(context_window=32_768)})


@pytest.mark.parametrize(
    "handle",
    ["", "/", "demo", "demo/", "demo/other", "/echo", "local", "local/", "nobody/model", "openai/gpt-5-mini", "local/qwen 3", "local/\n"],
)
def test_an_unknown_or_malformed_handle_is_refused(handle: str) -> None:
    registry = ModelRegistry(servers={"local": LOCAL}, api_keys={"anthropic": "key"})
    for ask in (registry.resolve, registry.info):
        with pytest.raises(ModelNotFound) as refused:
            ask(handle)
        assert refused.value.handle == handle


@pytest.mark.parametrize("handle", ["demo/echo", "local/qwen3", "local/any/other:name", "openai/gpt-99"])
def test_any_name_is_accepted_under_a_configured_provider(handle: str) -> None:
    registry = ModelRegistry(servers={"local": LOCAL}, api_keys={"openai": "key"})
    assert registry.resolve(handle).handle == handle
    assert registry.info(handle).handle == handle


def test_windows_come_from_the_settings_or_the_table_or_the_default() -> None:
    registry = ModelRegistry(servers={"local": LOCAL}, api_keys={"openai": "key"})
    windows = [registry.info(handle).context_window for handle in ("local/qwen3", "openai/gpt-5-mini", "local/other", "openai/gpt-99")]
    assert windows == [32_768, 400_000, DEFAULT_CONTEXT_WINDOW, DEFAULT_CONTEXT_WINDOW]
    assert ModelRegistry(servers={"local": LOCAL}, default_context_window=9).info("local/other").context_window == 9


def test_a_handle_is_told_in_its_two_parts() -> None:
    info = ModelRegistry(servers={"local": LOCAL}).info("local/org/name")
    assert (info.provider, info.name) == ("local", "org/name")


def test_models_are_the_demo_and_the_named_ones_of_providers_that_can_be_used() -> None:
    assert [model.handle for model in ModelRegistry().models()] == ["demo/echo"]
    handles = [model.handle for model in ModelRegistry(servers={"local": LOCAL}, api_keys={"google": "key"}).models()]
    assert handles[0] == "demo/echo"
    assert handles[-1] == "local/qwen3"
    assert {handle.partition("/")[0] for handle in handles} == {"demo", "google", "local"}


def test_no_key_is_shown_when_values_are_printed() -> None:
    assert "secret" not in repr(CompatibleServer(base_url="http://x/v1", api_key="secret"))


LIBRARIES = """
import asyncio, sys
from llm.endpoints import CompatibleServer
from llm.model import ModelRequest
from llm.registry import ModelRegistry

async def main():
    registry = ModelRegistry(api_keys={"openai": "k", "anthropic": "k", "google": "k"}, servers={"x": CompatibleServer(base_url="http://x")})
    registry.resolve("x/y"), registry.info("openai/gpt-5"), registry.models()
    events = [event async for event in registry.resolve("demo/echo").stream(ModelRequest(system="", history=[]))]
    await registry.aclose()
    return events

assert asyncio.run(main())
print(sorted({"pydantic_ai", "openai", "anthropic", "google.genai", "httpx2"} & set(sys.modules)))
"""


def test_the_demo_needs_no_providers_library() -> None:
    loaded = subprocess.run([sys.executable, "-c", LIBRARIES], check=True, capture_output=True, text=True, timeout=30)
    assert loaded.stdout.strip() == "[]"


async def test_many_first_calls_at_once_are_all_answered(provider: Provider, registry: ModelRegistry) -> None:
    answers = await asyncio.gather(*(answer(registry.resolve("local/qwen3"), request(f"I am {number}")) for number in range(100)))
    assert [answered.text for answered in answers] == [f"You said: I am {number}" for number in range(100)]
    assert len(provider.requests) == 100


async def test_a_library_that_cannot_start_fails_the_call_as_data() -> None:
    registry = ModelRegistry(servers={"broken": CompatibleServer(base_url="http://host:port/v1")})
    assert (await answer(registry.resolve("broken/model"), request("hi"))).failed.error.type is RunErrorType.INTERNAL
    await registry.aclose()


async def test_closing_ends_running_calls_and_may_be_repeated(provider: Provider) -> None:
    registry = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})
    provider.script(Answer(text="never to its end", stall_after=2))
    call = asyncio.create_task(answer(registry.resolve("local/qwen3"), request("hi")))
    await provider.until(lambda: len(provider.requests) == 1)
    await registry.aclose()
    await registry.aclose()
    await provider.until(lambda: len(provider.disconnects) == 1)
    assert not isinstance((await call).end, Finished)
