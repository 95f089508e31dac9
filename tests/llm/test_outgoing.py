"""What a provider is sent, as the stub received it."""

from typing import Any

import pytest

from llm.model import (
    AssistantTurn,
    CalledTool,
    Model,
    ModelRequest,
    ReasoningTurn,
    ReturnedTool,
    SystemTurn,
    ToolCallTurn,
    ToolReturnTurn,
    UserTurn,
)
from tests.llm.reading import CLOCK, answer, request
from tests.provider import Provider
from vocabulary.messages import HiddenReasoningBody, HiddenReasoningState, ImagePart, ReasoningBody, TextPart, ToolReturnStatus
from vocabulary.model_settings import ModelSettings, ReasoningEffort

SYSTEM = {"role": "system", "content": "Be brief."}
OURS = ReasoningBody(provider_name="local", provider_details={"id": "reasoning_content"})


async def sent(provider: Provider, local: Model, asked: ModelRequest) -> dict[str, Any]:
    assert (await answer(local, asked)).finished
    return provider.requests[-1].body


def _called(*ids: str) -> ToolCallTurn:
    return ToolCallTurn(tuple(CalledTool(id_, "clock", '{"zone": "UTC"}') for id_ in ids))


def _returned(*ids: str, status: ToolReturnStatus = ToolReturnStatus.SUCCESS) -> ToolReturnTurn:
    return ToolReturnTurn(tuple(ReturnedTool(id_, "clock", status, f"nine ({id_})") for id_ in ids))


async def test_the_system_prompt_comes_first_then_the_history_in_its_order(provider: Provider, local: Model) -> None:
    body = await sent(provider, local, request("hi", AssistantTurn("hello"), "how are you?"))
    assert (body["model"], body["stream"], body["stream_options"]) == ("qwen3", True, {"include_usage": True})
    assert body["messages"] == [
        SYSTEM,
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "how are you?"},
    ]


async def test_without_a_system_prompt_there_is_no_system_message(provider: Provider, local: Model) -> None:
    assert (await sent(provider, local, request("hi", system="")))["messages"] == [{"role": "user", "content": "hi"}]


async def test_an_instruction_inside_the_history_is_marked_and_stays_in_its_place(provider: Provider, local: Model) -> None:
    body = await sent(provider, local, request("hi", AssistantTurn("hello"), SystemTurn("Speak French."), "and now?"))
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][-1]["content"] == "<system>Speak French.</system>\n\nand now?"


async def test_calls_and_returns_keep_their_ids_and_their_order(provider: Provider, local: Model) -> None:
    asked = request("hi", AssistantTurn("Let me look."), _called("b", "a"), _returned("b", "a"), AssistantTurn("Nine."), "thanks")
    messages = (await sent(provider, local, asked))["messages"]
    said, first, second, *_ = messages[2:]
    assert said["content"] == "Let me look."
    assert [(call["id"], call["function"]) for call in said["tool_calls"]] == [
        ("b", {"name": "clock", "arguments": '{"zone":"UTC"}'}),
        ("a", {"name": "clock", "arguments": '{"zone":"UTC"}'}),
    ]
    assert (first["role"], first["tool_call_id"], first["content"]) == ("tool", "b", "nine (b)")
    assert (second["role"], second["tool_call_id"], second["content"]) == ("tool", "a", "nine (a)")


async def test_a_failed_return_says_so(provider: Provider, local: Model) -> None:
    asked = request("hi", _called("a"), _returned("a", status=ToolReturnStatus.ERROR))
    assert "error" in (await sent(provider, local, asked))["messages"][-1]["content"]


async def test_reasoning_goes_back_while_a_return_is_answered_and_not_later(provider: Provider, local: Model) -> None:
    loop = [ReasoningTurn("hm", OURS), _called("a"), _returned("a")]
    during = (await sent(provider, local, request("hi", *loop)))["messages"]
    assert during[2]["reasoning_content"] == "hm"
    later = (await sent(provider, local, request("hi", *loop, AssistantTurn("Nine."), "thanks")))["messages"]
    assert "hm" not in str(later)


@pytest.mark.parametrize(
    "turn",
    [
        ReasoningTurn("hm", ReasoningBody(provider_name="elsewhere", signature="s")),
        ReasoningTurn("hm", ReasoningBody()),
        ReasoningTurn("", HiddenReasoningBody(state=HiddenReasoningState.REDACTED, provider_name="anthropic", signature="hm")),
    ],
)
async def test_reasoning_of_another_provider_is_never_sent(provider: Provider, local: Model, turn: ReasoningTurn) -> None:
    assert "hm" not in str((await sent(provider, local, request("hi", turn, _called("a"), _returned("a"))))["messages"])


async def test_reasoning_that_led_to_nothing_is_not_sent(provider: Provider, local: Model) -> None:
    messages = (await sent(provider, local, request("hi", ReasoningTurn("hm", OURS))))["messages"]
    assert messages == [SYSTEM, {"role": "user", "content": "hi"}]


async def test_images_are_sent_by_url_or_as_they_are(provider: Provider, local: Model) -> None:
    pixel = "data:image/png;base64,iVBORw0KGgo="
    turn = UserTurn((TextPart("what is this?"), ImagePart("https://example.org/a", "image/png"), ImagePart(pixel)))
    content = (await sent(provider, local, request(turn)))["messages"][-1]["content"]
    assert content[0] == {"type": "text", "text": "what is this?"}
    assert [part["image_url"]["url"] for part in content[1:]] == ["https://example.org/a", pixel]


async def test_tools_are_sent_with_their_schema_untouched(provider: Provider, local: Model) -> None:
    body = await sent(provider, local, request("hi", tools=[CLOCK]))
    assert body["tools"] == [
        {"type": "function", "function": {"name": CLOCK.name, "description": CLOCK.description, "parameters": CLOCK.parameters}}
    ]
    assert "tools" not in await sent(provider, local, request("hi"))


async def test_settings_are_sent_in_the_protocols_words(provider: Provider, local: Model) -> None:
    chosen = ModelSettings(
        temperature=0.0, top_p=0.5, max_output_tokens=99, reasoning_effort=ReasoningEffort.HIGH, parallel_tool_calls=False, context_window=1
    )
    body = await sent(provider, local, request("hi", settings=chosen, tools=[CLOCK]))
    names = ("temperature", "top_p", "max_tokens", "reasoning_effort", "parallel_tool_calls")
    assert [body[name] for name in names] == [0.0, 0.5, 99, "high", False]


async def test_what_is_not_set_is_not_sent(provider: Provider, local: Model) -> None:
    assert set(await sent(provider, local, request("hi"))) == {"model", "stream", "stream_options", "messages"}


async def test_the_key_of_the_server_is_sent_to_it_and_no_other(provider: Provider, local: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-you")
    await answer(local, request("hi"))
    assert provider.requests[-1].headers["authorization"] == "Bearer key-l"
