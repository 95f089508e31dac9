"""The same contract over the other providers' own protocols, each from a recording-like simulation on loopback.

Their wire formats are written out here as their documentation has them; nobody asked the real ones.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from llm.model import (
    CalledTool,
    HiddenReasoning,
    ReasoningEnded,
    ReasoningTurn,
    ReturnedTool,
    SystemTurn,
    ToolCallStarted,
    ToolCallTurn,
    ToolReturnTurn,
    Turn,
)
from llm.registry import ModelRegistry
from tests.llm.reading import CLOCK, Answered, answer, request
from tests.provider import Delivery, Events, Provider
from vocabulary.messages import HiddenReasoningBody, HiddenReasoningState, ReasoningBody, ToolReturnStatus
from vocabulary.model_settings import ModelSettings, ReasoningEffort
from vocabulary.runs import RunErrorType, StopReason, Usage


def _typed(*payloads: dict[str, Any]) -> list[str]:
    return [f"event: {payload['type']}\ndata: {json.dumps(payload)}" for payload in payloads]


# ---- Anthropic: blocks, one after the other


def _block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    grown = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [{"type": "content_block_start", "index": index, "content_block": block}, *grown, {"type": "content_block_stop", "index": index}]


ANTHROPIC = _typed(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-5-5",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 1},
        },
    },
    *_block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Let me "},
        {"type": "thinking_delta", "thinking": "see."},
        {"type": "signature_delta", "signature": "signed"},
    ),
    *_block(1, {"type": "redacted_thinking", "data": "sealed"}),
    {"type": "ping"},
    *_block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Look"}, {"type": "text_delta", "text": "ing."}),
    *_block(
        3,
        {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"zone":'},
        {"type": "input_json_delta", "partial_json": ' "UTC"}'},
    ),
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 20}},
    {"type": "message_stop"},
)

# ---- OpenAI: items; reasoning as a summary in paragraphs, its seal after them

_numbers = count()


def _openai(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "sequence_number": next(_numbers), **fields}


def _response(status: str, **fields: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "output": [], "tools": []}
    settings = {"parallel_tool_calls": True, "tool_choice": "auto", "temperature": 1, "top_p": 1}
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "gpt-5-mini", **empty, **settings, **fields}


def _paragraph(number: int, text: str) -> list[dict[str, Any]]:
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": number}
    return [
        _openai("reasoning_summary_part.added", **place, part={"type": "summary_text", "text": ""}),
        _openai("reasoning_summary_text.delta", **place, delta=text),
    ]


_CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "clock"}
_TEXT = {"item_id": "msg_1", "output_index": 1, "content_index": 0}

OPENAI = _typed(
    _openai("created", response=_response("in_progress")),
    _openai("output_item.added", output_index=0, item={"id": "rs_1", "type": "reasoning", "summary": []}),
    *_paragraph(0, "Let me see."),
    *_paragraph(1, "And again."),
    _openai("output_item.done", output_index=0, item={"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "sealed"}),
    _openai(
        "output_item.added",
        output_index=1,
        item={"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []},
    ),
    _openai("content_part.added", **_TEXT, part={"type": "output_text", "text": "", "annotations": []}),
    _openai("output_text.delta", **_TEXT, delta="Look", logprobs=[]),
    _openai("output_text.delta", **_TEXT, delta="ing.", logprobs=[]),
    _openai("output_item.added", output_index=2, item={**_CALL, "arguments": ""}),
    _openai("function_call_arguments.delta", item_id="fc_1", output_index=2, delta='{"zone":'),
    _openai("function_call_arguments.delta", item_id="fc_1", output_index=2, delta=' "UTC"}'),
    _openai("function_call_arguments.done", item_id="fc_1", output_index=2, arguments='{"zone": "UTC"}'),
    _openai("output_item.done", output_index=2, item={**_CALL, "arguments": '{"zone": "UTC"}'}),
    _openai(
        "completed",
        response=_response(
            "completed",
            usage={
                "input_tokens": 15,
                "input_tokens_details": {"cached_tokens": 3},
                "output_tokens": 20,
                "output_tokens_details": {"reasoning_tokens": 4},
                "total_tokens": 35,
            },
        ),
    ),
)

# ---- Google: chunks of parts; a call comes whole, with the signature of the thoughts that led to it


def google(*parts: dict[str, Any], **fields: Any) -> str:
    usage = {"promptTokenCount": 15, "candidatesTokenCount": 16, "thoughtsTokenCount": 4, "totalTokenCount": 35}
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **fields}
    chunk = {"candidates": [candidate], "responseId": "r1", "modelVersion": "gemini-3.8-flash", "usageMetadata": usage}
    return f"data: {json.dumps(chunk)}"


SIGNATURE = b64encode(b"signed").decode()

GOOGLE = [
    google({"text": "Let me see.", "thought": True}),
    google({"text": "Look"}),
    google({"text": "ing."}),
    google({"functionCall": {"id": "g1", "name": "clock", "args": {"zone": "UTC"}}, "thoughtSignature": SIGNATURE}, finishReason="STOP"),
]

PROTOCOLS = {"anthropic/claude-haiku-5-5": ANTHROPIC, "openai/gpt-5-mini": OPENAI, "google/gemini-3.8-flash": GOOGLE}

every_protocol = pytest.mark.parametrize(("handle", "events"), PROTOCOLS.items(), ids=["anthropic", "openai", "google"])


async def asked(provider: Provider, registry: ModelRegistry, handle: str, delivery: Delivery, *history: Turn | str) -> Answered:
    provider.script(delivery)
    chosen = ModelSettings(reasoning_effort=ReasoningEffort.LOW, max_output_tokens=4_000, parallel_tool_calls=False)
    return await answer(registry.resolve(handle), request(*(history or ("what time is it?",)), tools=[CLOCK], settings=chosen))


@every_protocol
async def test_an_answer_with_reasoning_text_and_a_call(
    provider: Provider, registry: ModelRegistry, handle: str, events: Sequence[str]
) -> None:
    answered = await asked(provider, registry, handle, Events(of=events))
    assert [part.text for part in answered.reasoning] == ["Let me see.\n\nAnd again." if events is OPENAI else "Let me see."]
    assert answered.text == "Looking."
    assert [(name, json.loads(arguments)) for name, arguments in answered.calls] == [("clock", {"zone": "UTC"})]
    assert answered.finished.stop_reason is StopReason.END_TURN
    usage = answered.finished.usage
    assert (usage.input_tokens, usage.output_tokens, usage.requests, usage.estimated) == (15, 20, 1, False)


async def test_cached_and_reasoning_tokens_are_counted(provider: Provider, registry: ModelRegistry) -> None:
    claude = await asked(provider, registry, "anthropic/claude-haiku-5-5", Events(of=ANTHROPIC))
    assert claude.finished.usage == Usage(input_tokens=15, output_tokens=20, cached_input_tokens=3, cache_write_tokens=2, requests=1)
    gpt = await asked(provider, registry, "openai/gpt-5-mini", Events(of=OPENAI))
    assert gpt.finished.usage == Usage(input_tokens=15, output_tokens=20, cached_input_tokens=3, reasoning_tokens=4, requests=1)
    assert (await asked(provider, registry, "google/gemini-3.8-flash", Events(of=GOOGLE))).finished.usage.reasoning_tokens == 4


async def test_signatures_and_seals_are_kept(provider: Provider, registry: ModelRegistry) -> None:
    claude = await asked(provider, registry, "anthropic/claude-haiku-5-5", Events(of=ANTHROPIC))
    assert claude.reasoning[0].ended == ReasoningEnded(0, ReasoningBody(signature="signed", provider_name="anthropic"))
    redacted = HiddenReasoningBody(
        state=HiddenReasoningState.REDACTED, signature="sealed", provider_name="anthropic", provider_details={"id": "redacted_thinking"}
    )
    assert claude.hidden == [HiddenReasoning(1, redacted)]
    gpt = await asked(provider, registry, "openai/gpt-5-mini", Events(of=OPENAI))
    body = ReasoningBody(signature="sealed", provider_name="openai", provider_details={"id": "rs_1"})
    assert gpt.reasoning[0].ended == ReasoningEnded(0, body)
    gemini = await asked(provider, registry, "google/gemini-3.8-flash", Events(of=GOOGLE))
    omitted = HiddenReasoningBody(state=HiddenReasoningState.OMITTED, signature=SIGNATURE, provider_name="google")
    assert gemini.hidden == [HiddenReasoning(2, omitted)]


async def answered_return(provider: Provider, registry: ModelRegistry, handle: str) -> dict[str, Any]:
    """What is sent after the call was answered: its body."""
    first = await asked(provider, registry, handle, Events(of=PROTOCOLS[handle]))
    await asked(provider, registry, handle, Events(of=PROTOCOLS[handle]), "what time is it?", *_as_history(first))
    return provider.requests[-1].body


def _as_history(answered: Answered) -> list[Turn]:
    """The answer as the engine stores it, the call answered with an error."""
    turns: list[Turn] = []
    for part in answered.parts.values():
        match part.ended:
            case ReasoningEnded(body=body) | HiddenReasoning(body=body):
                turns.append(ReasoningTurn(part.text, body))
            case _ if isinstance(part.started, ToolCallStarted):
                call = CalledTool(part.started.provider_call_id or "ours", part.started.name, part.text)
                turns.append(ToolCallTurn((call,)))
                turns.append(ToolReturnTurn((ReturnedTool(call.call_id, call.name, ToolReturnStatus.ERROR, "no such zone"),)))
            case _:
                pass
    return [*turns, SystemTurn("Try UTC.")]


async def test_claude_gets_its_thoughts_back_signed_and_the_error_marked(provider: Provider, registry: ModelRegistry) -> None:
    body = await answered_return(provider, registry, "anthropic/claude-haiku-5-5")
    assert provider.requests[-1].path.startswith("/v1/messages")
    assert provider.requests[-1].headers["authorization"] == "Bearer key-a"
    _, said, returned = body["messages"]
    assert [block["type"] for block in said["content"]] == ["thinking", "redacted_thinking", "tool_use"]
    assert (said["content"][0]["thinking"], said["content"][0]["signature"]) == ("Let me see.", "signed")
    assert returned["content"][0]["tool_use_id"] == said["content"][2]["id"] == "toolu_1"
    assert returned["content"][0]["is_error"] is True
    assert "Try UTC." in returned["content"][1]["text"]
    assert body["system"][0]["text"] == "Be brief."
    assert body["max_tokens"] == 4_000


async def test_reasoning_that_led_to_nothing_is_not_sent(provider: Provider, registry: ModelRegistry) -> None:
    thought = ReasoningTurn("hm", ReasoningBody(signature="signed", provider_name="anthropic"))
    await asked(provider, registry, "anthropic/claude-haiku-5-5", Events(of=ANTHROPIC), "hi", thought, "still there?")
    assert "hm" not in str(provider.requests[-1].body["messages"])


async def test_gpt_gets_its_reasoning_back_sealed_and_nothing_is_kept_there(provider: Provider, registry: ModelRegistry) -> None:
    body = await answered_return(provider, registry, "openai/gpt-5-mini")
    assert provider.requests[-1].path == "/v1/responses"
    assert provider.requests[-1].headers["authorization"] == "Bearer key-o"
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["instructions"] == "Be brief."
    _, reasoning, call, returned, instruction = body["input"]
    assert (reasoning["type"], reasoning["id"], reasoning["encrypted_content"]) == ("reasoning", "rs_1", "sealed")
    assert (call["type"], call["call_id"], json.loads(call["arguments"])) == ("function_call", "call_1", {"zone": "UTC"})
    assert (returned["type"], returned["call_id"]) == ("function_call_output", "call_1")
    assert instruction == {"role": "system", "content": "Try UTC."}


async def test_gemini_gets_the_signature_back_with_the_call(provider: Provider, registry: ModelRegistry) -> None:
    body = await answered_return(provider, registry, "google/gemini-3.8-flash")
    assert provider.requests[-1].path.startswith("/v1beta/models/gemini-3.8-flash:streamGenerateContent")
    assert provider.requests[-1].headers["x-goog-api-key"] == "key-g"
    call = body["contents"][1]["parts"][-1]
    assert call["functionCall"]["name"] == "clock"
    assert call["thoughtSignature"] == SIGNATURE
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == {"error": "no such zone"}
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]


@every_protocol
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RunErrorType.LLM_BAD_REQUEST),
        (401, RunErrorType.LLM_AUTHENTICATION),
        (429, RunErrorType.LLM_RATE_LIMIT),
        (500, RunErrorType.LLM_ERROR),
        (503, RunErrorType.LLM_OVERLOADED),
    ],
)
async def test_refusals_have_their_error_and_are_not_tried_again(
    provider: Provider, registry: ModelRegistry, handle: str, events: Sequence[str], status: int, kind: RunErrorType
) -> None:
    assert (await asked(provider, registry, handle, Events(of=events, status=status))).failed.error.type is kind
    assert len(provider.requests) == 1


@every_protocol
@pytest.mark.parametrize("politely", [False, True])
async def test_a_connection_that_is_cut_is_no_short_answer(
    provider: Provider, registry: ModelRegistry, handle: str, events: Sequence[str], politely: bool
) -> None:
    answered = await asked(provider, registry, handle, Events(of=events, cut_after=len(events) - 2, politely=politely))
    assert answered.failed.error.type is RunErrorType.LLM_ERROR
    assert len(provider.requests) == 1


@pytest.mark.parametrize("handle", PROTOCOLS)
async def test_a_body_with_nothing_in_it_is_an_empty_answer(provider: Provider, registry: ModelRegistry, handle: str) -> None:
    failed = (await asked(provider, registry, handle, Events(of=[]))).failed
    assert (failed.error.type, failed.transient) == (RunErrorType.LLM_EMPTY_RESPONSE, True)
    assert failed.error.message == "The provider's answer held nothing that could be read."


@pytest.mark.parametrize("handle", PROTOCOLS)
@pytest.mark.parametrize("body", ["<html>We are back soon.</html>", "data: [DONE]"])
async def test_a_body_that_is_no_answer_at_all_is_not_called_a_lost_connection(
    provider: Provider, registry: ModelRegistry, handle: str, body: str
) -> None:
    assert (await asked(provider, registry, handle, Events(of=[body]))).failed.error.type is RunErrorType.LLM_EMPTY_RESPONSE


@pytest.mark.parametrize(
    ("handle", "error"),
    [
        (
            "anthropic/claude-haiku-5-5",
            {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}},
        ),
        (
            "openai/gpt-5-mini",
            {"error": {"message": "Your input exceeds the context window of this model.", "code": "context_length_exceeded"}},
        ),
        (
            "google/gemini-3.8-flash",
            {
                "error": {
                    "code": 400,
                    "status": "INVALID_ARGUMENT",
                    "message": "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
                }
            },
        ),
    ],
)
async def test_a_full_context_window_is_recognised(provider: Provider, registry: ModelRegistry, handle: str, error: dict[str, Any]) -> None:
    failed = (await asked(provider, registry, handle, Events(of=[], status=400, error=error))).failed
    assert failed.error.type is RunErrorType.CONTEXT_WINDOW_OVERFLOW


async def test_an_overload_told_inside_the_stream_is_an_overload(provider: Provider, registry: ModelRegistry) -> None:
    overloaded = _typed({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    answered = await asked(provider, registry, "anthropic/claude-haiku-5-5", Events(of=[*ANTHROPIC[:4], *overloaded]))
    assert answered.reasoning[0].text == "Let me see."
    assert answered.failed.error.type is RunErrorType.LLM_OVERLOADED


def _deep(levels: int) -> Events:
    call = google(
        {"functionCall": {"id": "g1", "name": "clock", "args": {"zone": "deep"}}, "thoughtSignature": "c2ln"}, finishReason="STOP"
    )
    return Events(of=[call.replace('"deep"', "[" * levels + "]" * levels)])


async def test_arguments_come_however_deep_they_are_nested(provider: Provider, registry: ModelRegistry) -> None:
    answered = await asked(provider, registry, "google/gemini-3.8-flash", _deep(400))
    assert answered.calls == [("clock", '{"zone":' + "[" * 400 + "]" * 400 + "}")]


async def test_an_answer_too_deep_for_the_library_cannot_be_read(provider: Provider, registry: ModelRegistry) -> None:
    failed = (await asked(provider, registry, "google/gemini-3.8-flash", _deep(3000))).failed
    assert (failed.error.type, failed.transient) == (RunErrorType.LLM_EMPTY_RESPONSE, False)
