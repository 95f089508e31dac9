"""What each provider demands of a history, as its documentation and its refusals have it: `check` raises where it would answer 400.

Written down here, since nobody asks the real ones: who finds another rule adds it.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

Json = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _not_blank(text: Any) -> None:
    assert isinstance(text, str)
    assert text.strip(), "text must not be blank"


def _taken_once(ids: Sequence[str]) -> None:
    assert len(set(ids)) == len(ids), f"ids must be unique: {ids}"
    assert all(_NAME.fullmatch(id_) for id_ in ids), ids


def _arguments(text: str) -> None:
    assert isinstance(json.loads(text), dict)


# ---- chat completions, as the strictest chat templates of compatible servers take it


def chat_completions(body: Json) -> None:
    """System text first only; user and assistant take turns; each call is answered by the tool messages right after it."""
    messages: list[Json] = body["messages"]
    roles = [message["role"] for message in messages]
    assert "system" not in roles[1:], "the system message must be at the beginning"
    spoken = [message for message in messages if message["role"] != "system"]
    assert spoken[0]["role"] == "user"
    assert spoken[-1]["role"] in ("user", "tool")
    _answered_at_once(spoken)
    turns = [role for role, _ in groupby("assistant" if message["role"] == "assistant" else "user" for message in spoken)]
    assert turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    for role, group in groupby(spoken, key=lambda message: message["role"]):
        if role != "tool":
            assert len(list(group)) == 1, "conversation roles must alternate"
    _taken_once([call["id"] for message in spoken for call in _calls(message)])
    for message in spoken:
        _chat_message(message)


def _answered_at_once(messages: Sequence[Json]) -> None:
    awaited: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert awaited, "a tool message must follow the call it answers"
            assert message["tool_call_id"] == awaited.pop(0)
            continue
        assert awaited == [], "each call must be answered by a tool message"
        awaited = [call["id"] for call in _calls(message)]
    assert awaited == []


def _calls(message: Json) -> list[Json]:
    return message.get("tool_calls") or []


def _chat_message(message: Json) -> None:
    content, calls = message.get("content"), _calls(message)
    match message["role"], content:
        case "tool", str():
            pass
        case "assistant", None:
            assert calls, "an assistant message needs content or calls"
        case _, str():
            _not_blank(content)
        case "user", [_, *_]:
            for part in content:
                _chat_part(part)
        case _:
            raise AssertionError(message)
    for call in calls:
        assert _NAME.fullmatch(call["function"]["name"])
        _arguments(call["function"]["arguments"])


def _chat_part(part: Json) -> None:
    if part["type"] == "text":
        _not_blank(part["text"])
    else:
        assert part["type"] == "image_url"
        assert re.match(r"https?://|data:image/[a-z+.-]+;base64,.", part["image_url"]["url"])


# ---- OpenAI's Responses


def responses(body: Json) -> None:
    """Reasoning is followed by what it led to, sealed because nothing is kept there; each call has one output, after it."""
    items: list[Json] = body["input"]
    kinds = [item.get("type", "message") for item in items]
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    _taken_once(calls)
    assert outputs == calls, "no tool output found for function call"
    _taken_once([item["id"] for item in items if item.get("type") == "reasoning"])
    for place, (item, kind) in enumerate(zip(items, kinds, strict=True)):
        if kind == "reasoning":
            assert item["encrypted_content"]
            assert _is_answer(items[place + 1]), "reasoning was provided without its required following item"
        elif kind == "function_call":
            assert _NAME.fullmatch(item["name"])
            _arguments(item["arguments"])
        elif kind == "message":
            _responses_content(item["content"])
    assert not _is_answer(items[-1])


def _is_answer(item: Json) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")


def _responses_content(content: Any) -> None:
    if isinstance(content, str):
        return _not_blank(content)
    assert content
    for part in content:
        if "image_url" in part:
            assert part["type"] == "input_image"
            assert re.match(r"https?://|data:image/[a-z+.-]+;base64,.", part["image_url"])
        else:
            _not_blank(part["text"])
    return None


# ---- Anthropic


def anthropic(body: Json) -> None:
    """Results right after their calls and before all else; nothing blank; thinking signed and never last; the last word not Claude's."""
    messages: list[Json] = body["messages"]
    assert messages[0]["role"] == "user", "first message must use the user role"
    assert messages[-1]["role"] != "assistant", "no prefill"
    _taken_once([block["id"] for message in messages for block in message["content"] if block["type"] == "tool_use"])
    awaited: list[str] = []
    before = None
    for message in messages:
        assert message["content"], "content must not be empty"
        if message["role"] == "system":
            assert before != "assistant", "a system entry follows a user turn"
        results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        assert sorted(results) == sorted(awaited), "each tool_use block must have a tool_result block in the next message"
        assert all(block["type"] == "tool_result" for block in message["content"][: len(results)]), "tool_result blocks come first"
        awaited = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        if message["role"] == "assistant":
            assert message["content"][-1]["type"] not in ("thinking", "redacted_thinking"), "the final block cannot be thinking"
        for block in message["content"]:
            _block(message["role"], block)
        before = message["role"]


def _block(role: str, block: Json) -> None:
    match role, block:
        case _, {"type": "text", "text": text}:
            _not_blank(text)
        case "assistant", {"type": "thinking", "thinking": str(), "signature": signature}:
            assert signature
        case "assistant", {"type": "redacted_thinking", "data": data}:
            assert data
        case "assistant", {"type": "tool_use", "name": name, "input": dict()}:
            assert _NAME.fullmatch(name)
        case "user", {"type": "tool_result"}:
            pass
        case "user", {"type": "image", "source": {"type": "url", "url": url}}:
            assert re.match("https?://", url)
        case "user", {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}:
            assert kind in ("image/jpeg", "image/png", "image/gif", "image/webp")
            assert data
        case _:
            raise AssertionError(block)


# ---- Gemini


def gemini(body: Json) -> None:
    """The user is first and last; as many responses as calls, right after and on their own; the first call signed; nothing blank."""
    contents: list[Json] = body["contents"]
    roles = [content["role"] for content in contents]
    assert (roles[0], roles[-1]) == ("user", "user"), "a function call turn comes after a user turn"
    assert "model model" not in " ".join(roles)
    awaited: list[str] = []
    for content in contents:
        assert content["parts"]
        returned = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        assert returned == awaited, "as many function response parts as function call parts"
        assert not returned or len(returned) == len(content["parts"])
        calls = [part for part in content["parts"] if "functionCall" in part]
        assert not calls or calls[0].get("thoughtSignature"), "function call is missing a thought_signature"
        awaited = [part["functionCall"]["name"] for part in calls]
        for part in content["parts"]:
            _gemini_part(part)
    assert awaited == []


def _gemini_part(part: Json) -> None:
    match part:
        case {"text": text}:
            _not_blank(text)
        case {"functionCall": {"name": name, "args": dict()}} | {"functionCall": {"name": name}} | {"functionResponse": {"name": name}}:
            assert _NAME.fullmatch(name)
        case {"inlineData": {"mimeType": kind, "data": data}} | {"inlineData": {"mime_type": kind, "data": data}}:  # both are read
            assert kind.startswith("image/")
            assert data
        case _:
            raise AssertionError(part)


CHECKS: dict[str, Callable[[Json], None]] = {
    "local/qwen3": chat_completions,
    "openai/gpt-5-mini": responses,
    "anthropic/claude-haiku-5-5": anthropic,
    "anthropic/claude-sonnet-4-6": anthropic,
    "google/gemini-3.8-flash": gemini,
}
"""By a model of each kind."""


def check(handle: str, body: Json) -> None:
    CHECKS[handle](body)
