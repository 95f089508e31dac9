"""Whatever a conversation was left like, each provider is sent what it takes: contexts through `runs/prompt.py` to the wire."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from llm.images import MISSING, inlined
from llm.model import AssistantTurn, ModelRequest, UserTurn
from llm.registry import ModelRegistry
from runs.prompt import turns
from tests.llm.formats import CHECKS, check
from tests.llm.reading import CLOCK, answer
from tests.provider import Answer, Provider, Request
from tests.runs.values import message
from vocabulary.messages import (
    HiddenReasoningBody,
    HiddenReasoningState,
    ImagePart,
    Message,
    MessageStatus,
    MessageType,
    PlainBody,
    ReasoningBody,
    SystemBody,
    TextPart,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
    ToolSource,
    UserBody,
)

PIXEL = "data:image/png;base64,iVBORw0KGgo="
LINK = "https://example.org/a.png"
every_provider = pytest.mark.parametrize("handle", CHECKS)


def _refuse(_: Request) -> Answer:
    return Answer(status=400)


async def sent(provider: Provider, registry: ModelRegistry, handle: str, context: Sequence[Message]) -> Request:
    """What a call with this context puts on the wire."""
    provider.otherwise = _refuse
    before = len(provider.requests)
    failed = (await answer(registry.resolve(handle), ModelRequest(system="Be brief.", history=turns(context), tools=[CLOCK]))).failed
    assert len(provider.requests) == before + 1, failed.error
    return provider.requests[-1]


# ---- the messages of a conversation

_numbers = count(1)


def user(*parts: TextPart | ImagePart | str) -> Message:
    content = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return replace(message(MessageType.USER, "", UserBody(content=content), step_id=None), id=f"message-{next(_numbers)}")


def system(text: str) -> Message:
    return message(MessageType.SYSTEM, text, SystemBody(), step_id=None)


def said(text: str, step: str, status: MessageStatus = MessageStatus.COMPLETED) -> Message:
    return replace(message(MessageType.ASSISTANT, text, PlainBody(), step_id=step), status=status)


def thought(step: str, provider: str, number: int = 1) -> Message:
    """As `incoming` stores what this provider has signed."""
    details = {"id": f"rs_{step}_{number}"} if provider == "openai" else {"id": "reasoning_content"} if provider == "local" else None
    body = ReasoningBody(signature=None if provider == "local" else "c2lnbmVk", provider_name=provider, provider_details=details)
    return message(MessageType.REASONING, "Hm.", body, step_id=step)


def hidden(step: str, provider: str) -> Message:
    state = HiddenReasoningState.REDACTED if provider == "anthropic" else HiddenReasoningState.OMITTED
    details = {"id": "redacted_thinking"} if provider == "anthropic" else {"id": f"rs_{step}_h"} if provider == "openai" else None
    body = HiddenReasoningBody(state=state, signature="c2VhbGVk", provider_name=provider, provider_details=details)
    return message(MessageType.HIDDEN_REASONING, "", body, step_id=step)


def called(step: str, *calls: tuple[str, str, str | None]) -> Message:
    """Each of a name, arguments and the provider's id."""
    made = tuple(
        ToolCall(
            id=f"toolcall-{step}-{place}",
            name=name,
            state=ToolCallState.COMPLETED,
            source=ToolSource.BUILTIN,
            arguments_text=arguments,
            provider_call_id=id_,
        )
        for place, (name, arguments, id_) in enumerate(calls)
    )
    return message(MessageType.TOOL_CALL, "", ToolCallBody(tool_calls=made), step_id=step)


def returned(calls: Message, *outputs: str, status: ToolReturnStatus = ToolReturnStatus.SUCCESS, first: int = 0) -> Message:
    assert isinstance(calls.body, ToolCallBody)
    answered = zip(calls.body.tool_calls[first:], outputs, strict=False)
    items = tuple(ToolReturn(tool_call_id=call.id, name=call.name, status=status, output=output) for call, output in answered)
    return message(MessageType.TOOL_RETURN, "", ToolReturnBody(tool_returns=items), step_id=calls.step_id)


# ---- by hand: how a run can leave a conversation, and what comes next

CLOCKED = ("clock", '{"zone": "UTC"}', "call_0")


def _steps(provider: str) -> list[Message]:
    """Two finished steps of a model that thinks, whose ids begin anew in each."""
    first, second = called("s1", CLOCKED, (*CLOCKED[:2], "call_1")), called("s2", CLOCKED)
    return [
        user("What time is it?"),
        thought("s1", provider),
        hidden("s1", provider),
        said("\n\n", "s1"),
        first,
        returned(first, "noon", ""),
        thought("s2", provider),
        said("Once more.", "s2"),
        hidden("s2", provider),
        second,
        returned(second, "No such zone.", status=ToolReturnStatus.ERROR),
    ]


CUT_CALL = called("s3", ("clock", '{"zone": ', "call_9"))
ODD_CALL = called("s3", ("clo\N{REPLACEMENT CHARACTER}ck.now", "[1]", "functions.clock:0"), ("", "", None), ("n" * 200, "{}", "x" * 200))
LEFT: dict[str, list[Message]] = {
    "in the middle of its steps": [],
    "and answered": [thought("s3", "?"), said("Noon.", "s3"), user("Thanks")],
    "cancelled before a word": [user("And now?")],
    "cancelled in the text": [thought("s3", "?"), said("It is", "s3", MessageStatus.INTERRUPTED), user("Go on")],
    "cancelled in a thought": [hidden("s3", "?"), user("Go on")],
    "cancelled in a thought after text": [said("Well,", "s3"), thought("s3", "?"), user("Go on")],
    "cancelled between a call and its end": [thought("s3", "?"), CUT_CALL, returned(CUT_CALL, "Not run."), user("Go on")],
    "with an instruction": [system("In German."), user("Again")],
    "with nothing but an instruction": [system("In German.")],
    "with a call that has no return": [thought("s3", "?"), CUT_CALL, user("Go on")],
    "with calls that cannot be": [ODD_CALL, returned(ODD_CALL, "a", "b", "c"), user("Go on")],
    "with returns in two parts, the second first": [ODD_CALL, returned(ODD_CALL, "b", "c", first=1), returned(ODD_CALL, "a")],
    "with blanks": [user("  ", ImagePart(PIXEL)), said(" ", "s3"), user("\n"), system(" ")],
    "with its own words": [said("Noon.", "s3")],
    "with images": [user("What is this?", ImagePart(PIXEL), "And this?"), said("A dot.", "s3"), user(ImagePart(PIXEL))],
}


@every_provider
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT.keys())
async def test_however_a_run_was_left_the_next_request_is_well_formed(
    provider: Provider, registry: ModelRegistry, handle: str, left: Sequence[Message]
) -> None:
    maker = handle.partition("/")[0]
    context = [*_steps(maker), *(_made_by(maker, item) for item in left)]
    check(handle, (await sent(provider, registry, handle, context)).body)


@every_provider
async def test_what_another_provider_has_made_is_well_formed_too(provider: Provider, registry: ModelRegistry, handle: str) -> None:
    for maker in ("local", "openai", "anthropic", "google"):
        check(handle, (await sent(provider, registry, handle, [*_steps(maker), user("And now you")])).body)


@every_provider
async def test_a_context_that_begins_in_the_middle_is_well_formed(provider: Provider, registry: ModelRegistry, handle: str) -> None:
    steps = _steps(handle.partition("/")[0])
    for begins in (1, 6, len(steps)):
        check(handle, (await sent(provider, registry, handle, [*steps[begins:], *([user("Hi")] if begins == 1 else [])])).body)


def _made_by(maker: str, item: Message) -> Message:
    match item.body, item.step_id:
        case ReasoningBody(), str(step):
            return thought(step, maker)
        case HiddenReasoningBody(), str(step):
            return hidden(step, maker)
        case _:
            return item


# ---- images


def _images(handle: str, body: dict[str, Any]) -> list[Any]:
    match handle.partition("/")[0]:
        case "local":
            return [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
        case "openai":
            return [part["image_url"] for part in body["input"][-1]["content"] if part["type"] == "input_image"]
        case "anthropic":
            return [part["source"] for part in body["messages"][-1]["content"] if part["type"] == "image"]
        case _:
            return [part["inlineData"] for part in body["contents"][-1]["parts"] if "inlineData" in part]


@every_provider
async def test_an_image_that_came_with_the_message_is_sent_as_it_is(provider: Provider, registry: ModelRegistry, handle: str) -> None:
    body = (await sent(provider, registry, handle, [user("What is this?", ImagePart(PIXEL), ImagePart(PIXEL, "image/gif"))])).body
    data = PIXEL.partition(",")[2]
    inline = {"mime_type": "image/png", "data": data}
    source = {"type": "base64", "media_type": "image/png", "data": data}
    expected = {"local": PIXEL, "openai": PIXEL, "anthropic": source, "google": inline}[handle.partition("/")[0]]
    assert _images(handle, body) == [expected, expected]
    check(handle, body)


@every_provider
@pytest.mark.parametrize("media_type", [None, "image/png"])
@pytest.mark.parametrize("url", [LINK, "https://127.0.0.1/without-an-ending"])
async def test_a_link_is_followed_by_the_provider_or_else_said_to_be_missing(
    provider: Provider, registry: ModelRegistry, handle: str, url: str, media_type: str | None
) -> None:
    if handle.startswith("google/"):
        url = "http://127.0.0.1:9/inside"  # never fetched: an address of our own network
    body = (await sent(provider, registry, handle, [user("What is this?", ImagePart(url, media_type))])).body
    check(handle, body)
    source = {"type": "url", "url": url}
    expected: list[Any] = {"local": [url], "openai": [url], "anthropic": [source], "google": []}[handle.partition("/")[0]]
    assert _images(handle, body) == expected
    assert ("could not be read" in str(body)) is handle.startswith("google/")


@every_provider
@pytest.mark.parametrize("url", ["data:image/png,raw", "data:image/png;base64,a", "data:image/svg+xml;utf8,<svg/>"])
async def test_data_that_is_no_image_does_not_stop_the_talk(provider: Provider, registry: ModelRegistry, handle: str, url: str) -> None:
    body = (await sent(provider, registry, handle, [user("What is this?", ImagePart(url))])).body
    check(handle, body)
    assert "could not be read" in str(body)


async def test_links_are_fetched_for_who_does_not_follow_them() -> None:
    async def fetch(image: ImagePart) -> ImagePart:
        if "gone" in image.url:
            raise ValueError
        return ImagePart(PIXEL, "image/png")

    asked = UserTurn((TextPart("Look"), ImagePart(LINK), ImagePart("https://example.org/gone"), ImagePart(PIXEL)))
    assert await inlined([asked, AssistantTurn("A dot.")], fetch) == [
        UserTurn((TextPart("Look"), ImagePart(PIXEL, "image/png"), MISSING, ImagePart(PIXEL))),
        AssistantTurn("A dot."),
    ]


# ---- any

_texts = st.sampled_from(["Hi", "", " ", "\n\n", "Grüß Gott 😀", "<system>", "a\n"])
_parts = st.lists(st.one_of(_texts.map(TextPart), st.just(ImagePart(PIXEL))), min_size=1, max_size=3)
_names = st.sampled_from(["clock", "a.b", "", "x" * 99, "ü"])
_arguments = st.sampled_from(["{}", "", "[]", '{"zone": ', '{"a": {"b": null}}', "null"])
_given_ids = st.sampled_from(["call_0", "call_1", "", None, "functions.clock:0", "y" * 99])
_makers = st.sampled_from(["local", "openai", "anthropic", "google"])


@st.composite
def _a_step(draw: st.DrawFn) -> list[Message]:
    """Parts in any order; calls with all, some or none of their returns, which an approval splits in two."""
    step, maker = f"step-{next(_numbers)}", draw(_makers)
    kinds = draw(st.lists(st.sampled_from("thst"), max_size=4))
    made = [
        thought(step, maker, place) if kind == "t" else hidden(step, maker) if kind == "h" else said(draw(_texts), step)
        for place, kind in enumerate(kinds)
        if kind != "h" or "h" not in kinds[:place]
    ]
    calls = draw(st.lists(st.tuples(_names, _arguments, _given_ids), max_size=3))
    if not calls:
        return made
    call = called(step, *calls)
    made.insert(draw(st.integers(0, len(made))), call)
    answered = draw(st.integers(0, len(calls)))
    return [*made, returned(call, *["out"] * answered), returned(call, *[""] * (len(calls) - answered), first=answered)][
        : len(made) + draw(st.integers(0, 2))
    ]


_inputs = st.lists(st.one_of(_parts.map(lambda parts: user(*parts)), _texts.map(system)), min_size=1, max_size=3)
_runs = st.tuples(_inputs, st.lists(_a_step(), max_size=3)).map(lambda run: [*run[0], *(item for step in run[1] for item in step)])
_contexts = st.lists(_runs, min_size=1, max_size=3).map(lambda runs: [item for run in runs for item in run])


@every_provider
@given(context=_contexts, begins=st.integers(0, 4))
@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_any_context_is_well_formed(
    provider: Provider, registry: ModelRegistry, handle: str, context: list[Message], begins: int
) -> None:
    check(handle, (await sent(provider, registry, handle, context[begins:])).body)
