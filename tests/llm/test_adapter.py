"""One call against a real HTTP server that speaks chat-completions: what comes in, every way it can fail, and hanging up."""

import asyncio
import json
import socket
from contextlib import aclosing
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from llm.endpoints import CompatibleServer
from llm.model import Delta, Model, ReasoningEnded, TextStarted, ToolCallStarted
from llm.registry import ModelRegistry
from tests.llm.reading import CLOCK, answer, request
from tests.provider import Answer, Call, Events, Provider
from vocabulary.messages import ReasoningBody
from vocabulary.runs import RunErrorType, StopReason, Usage
from vocabulary.text import storable

ESTIMATED = Usage(requests=1, estimated=True)

# ---- answers


async def test_text_comes_as_it_was_sent(provider: Provider, local: Model) -> None:
    provider.script(Answer(text=["Hel", "lo", " ", "you"]))
    answered = await answer(local, request("hi"))
    assert answered.parts[0].deltas == ["Hel", "lo", " ", "you"]
    assert answered.finished.stop_reason is StopReason.END_TURN


@pytest.mark.parametrize("named", ["reasoning_content", "reasoning"])
async def test_reasoning_comes_before_the_text_and_apart_from_it(provider: Provider, local: Model, named: str) -> None:
    provider.script(Answer(reasoning="Let me think about it.", reasoning_field=named, text="Done."))
    answered = await answer(local, request("hi"))
    assert [part.text for part in answered.reasoning] == ["Let me think about it."]
    assert answered.text == "Done."
    ended = answered.reasoning[0].ended
    assert ended == ReasoningEnded(0, ReasoningBody(provider_name="local", provider_details={"id": named}))


async def test_reasoning_in_tags_is_reasoning_too(provider: Provider, local: Model) -> None:
    provider.script(Answer(text=["<think>", "hm", "</think>", "Yes."]))
    answered = await answer(local, request("hi"))
    assert [part.text for part in answered.reasoning] == ["hm"]
    assert answered.text == "Yes."


async def test_interleaved_calls_get_their_own_arguments(provider: Provider, local: Model) -> None:
    calls = [Call("clock", '{"zone": "Europe/Berlin"}', "call_x"), Call("clock", '{"zone": "UTC"}', "call_y"), Call("noop", "")]
    provider.script(Answer(text="Let me look.", tool_calls=calls, chunk_size=4))
    answered = await answer(local, request("hi", tools=[CLOCK]))
    assert answered.text == "Let me look."
    assert answered.calls == [("clock", '{"zone": "Europe/Berlin"}'), ("clock", '{"zone": "UTC"}'), ("noop", "{}")]
    ids = [part.started.provider_call_id for part in answered.parts.values() if isinstance(part.started, ToolCallStarted)]
    assert ids == ["call_x", "call_y", "call_2"]
    assert len(answered.parts[1].deltas) == 7


async def test_arguments_that_are_not_json_are_handed_on(provider: Provider, local: Model) -> None:
    provider.script(Answer(tool_calls=[Call("clock", '{"zone": ')]))
    assert (await answer(local, request("hi"))).calls == [("clock", '{"zone": ')]


async def test_usage_is_what_the_last_chunk_says(local: Model) -> None:
    usage = (await answer(local, request("hi"))).finished.usage
    assert usage == Usage(input_tokens=11, output_tokens=7, cached_input_tokens=5, reasoning_tokens=3, requests=1)


async def test_usage_so_far_that_comes_with_each_piece_is_not_added_up(provider: Provider, local: Model) -> None:
    def piece(delta: dict[str, str], finish: str | None, written: int) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        usage = {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 10 + written}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, "usage": usage}
        return f"data: {json.dumps(chunk)}"

    provider.script(Events(of=[piece({"content": "a"}, None, 1), piece({"content": "b"}, None, 2), piece({}, "stop", 2), "data: [DONE]"]))
    assert (await answer(local, request("hi"))).finished.usage == Usage(input_tokens=10, output_tokens=2, requests=1)
    assert provider.requests[-1].body["stream_options"] == {"include_usage": True}


async def test_what_usage_leaves_out_is_none(provider: Provider, local: Model) -> None:
    provider.script(Answer(text="x", usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}))
    assert (await answer(local, request("hi"))).finished.usage == Usage(input_tokens=3, output_tokens=4, requests=1)


async def test_usage_that_is_not_reported_is_marked(provider: Provider, local: Model) -> None:
    provider.script(Answer(text="x", usage=None))
    assert (await answer(local, request("hi"))).finished.usage == ESTIMATED


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", StopReason.END_TURN),
        ("tool_calls", StopReason.END_TURN),
        ("length", StopReason.MAX_TOKENS),
        ("content_filter", StopReason.CONTENT_FILTER),
        ("something_new", StopReason.END_TURN),
    ],
)
async def test_a_finish_reason_has_its_stop_reason(provider: Provider, local: Model, finish_reason: str, stop_reason: StopReason) -> None:
    provider.script(Answer(text="x", finish_reason=finish_reason))
    assert (await answer(local, request("hi"))).finished.stop_reason is stop_reason


async def test_a_refusal_is_shown(provider: Provider, local: Model) -> None:
    refusal = 'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"refusal":"No."}}]}'
    finish = Answer().events(await _asked(provider, local))[-3:]
    provider.script(Events(of=[refusal, *finish]))
    answered = await answer(local, request("hi"))
    assert (answered.text, answered.finished.stop_reason) == ("No.", StopReason.CONTENT_FILTER)


async def _asked(provider: Provider, local: Model) -> Any:
    await answer(local, request("hi"))
    return provider.requests[-1]


# ---- text that cannot be stored as it comes


async def test_bytes_of_a_character_may_come_one_by_one(provider: Provider, local: Model) -> None:
    provider.script(Answer(text="Grüße 😀 漢字", write_size=1))
    assert (await answer(local, request("hi"))).text == "Grüße 😀 漢字"


async def test_a_surrogate_pair_split_over_two_chunks_is_joined(provider: Provider, local: Model) -> None:
    provider.script(Answer(text=["a\ud83d", "\ude00b"], reasoning=["\ud83d", "\ude00"], escaped=True))
    answered = await answer(local, request("hi"))
    assert answered.text == "a😀b"
    assert answered.reasoning[0].text == "😀"


async def test_lone_surrogates_and_nul_are_replaced(provider: Provider, local: Model) -> None:
    call = Call("clo\0ck", '{"zone": "\0\ud83d"}', "id\0")
    provider.script(Answer(text=["a\0b", "\ude00", "c\ud83d"], tool_calls=[call], chunk_size=1, escaped=True))
    answered = await answer(local, request("hi"))
    assert answered.text == "a�b�c�"
    assert answered.calls == [("clo�ck", '{"zone": "��"}')]


@given(st.lists(st.text(alphabet=st.sampled_from("a\0\ud83d\ude00é😀 "), min_size=1, max_size=5), min_size=1, max_size=5))
@example(["\ud83d"])
@examples(max_examples=40, deadline=None)
async def test_deltas_are_the_storable_text_however_it_is_cut(pieces: list[str]) -> None:
    async with Provider() as provider:
        registry = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})
        provider.script(Answer(text=pieces, escaped=True))
        assert (await answer(registry.resolve("local/m"), request("hi"))).text == storable("".join(pieces))
        await registry.aclose()


# ---- failures


def _refusal(status: int, message: str, code: str | None = None) -> Answer:
    return Answer(status=status, error={"error": {"message": message, "type": "invalid_request_error", "code": code}})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RunErrorType.LLM_BAD_REQUEST),
        (401, RunErrorType.LLM_AUTHENTICATION),
        (402, RunErrorType.LLM_RATE_LIMIT),
        (403, RunErrorType.LLM_AUTHENTICATION),
        (404, RunErrorType.LLM_BAD_REQUEST),
        (408, RunErrorType.LLM_TIMEOUT),
        (422, RunErrorType.LLM_BAD_REQUEST),
        (429, RunErrorType.LLM_RATE_LIMIT),
        (500, RunErrorType.LLM_ERROR),
        (502, RunErrorType.LLM_ERROR),
        (503, RunErrorType.LLM_OVERLOADED),
        (504, RunErrorType.LLM_TIMEOUT),
        (529, RunErrorType.LLM_OVERLOADED),
    ],
)
async def test_each_status_has_its_error_and_is_not_tried_again(provider: Provider, local: Model, status: int, kind: RunErrorType) -> None:
    provider.script(_refusal(status, "because"))
    failed = (await answer(local, request("hi"))).failed
    assert (failed.error.type, failed.usage) == (kind, ESTIMATED)
    assert failed.error.message == f"The provider answered {status}: because"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        (400, "Your input exceeds the context window of this model.", None),
        (400, "the request exceeds the available context size. try increasing it", None),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", None),
        (400, "Please reduce the length of the messages.", None),
        (413, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length", None),
        (500, "Context size has been exceeded.", None),
    ],
)
async def test_a_full_context_window_is_recognised(provider: Provider, local: Model, status: int, message: str, code: str | None) -> None:
    provider.script(_refusal(status, message, code))
    assert (await answer(local, request("hi"))).failed.error.type is RunErrorType.CONTEXT_WINDOW_OVERFLOW


async def test_a_rate_limit_that_speaks_of_tokens_is_a_rate_limit(provider: Provider, local: Model) -> None:
    provider.script(_refusal(429, "Request too large for model m: tokens per minute limit 30000, maximum context length"))
    assert (await answer(local, request("hi"))).failed.error.type is RunErrorType.LLM_RATE_LIMIT


async def test_an_error_inside_the_stream_is_a_failure(provider: Provider, local: Model) -> None:
    said = Answer(text="Half").events(await _asked(provider, local))[:2]
    provider.script(Events(of=[*said, 'data: {"error": {"message": "too busy", "type": "server_error", "code": "overloaded"}}']))
    answered = await answer(local, request("hi"))
    assert answered.text == "Half"
    assert answered.failed.error.type is RunErrorType.LLM_OVERLOADED


@pytest.mark.parametrize(("cut_after", "politely"), [(0, False), *product([1, 3, 5], [False, True])])
async def test_a_connection_that_is_cut_is_no_short_answer(provider: Provider, local: Model, cut_after: int, politely: bool) -> None:
    provider.script(Answer(text=["one ", "two ", "three ", "four"], cut_after=cut_after, politely=politely))
    answered = await answer(local, request("hi"))
    assert answered.text == "one two three four"[: [0, 0, 0, 8, 0, 18][cut_after]]
    assert answered.failed.error.type is RunErrorType.LLM_ERROR
    assert len(provider.requests) == 1


async def test_a_call_cut_in_its_arguments_is_left_open(provider: Provider, local: Model) -> None:
    provider.script(Answer(tool_calls=[Call("clock", '{"zone": "UTC"}')], chunk_size=5, cut_after=3))
    answered = await answer(local, request("hi"))
    assert answered.calls == [("clock", '{"zon')]
    assert answered.parts[0].ended is None
    assert answered.failed


@pytest.mark.parametrize("stall_after", [0, 3])
async def test_a_silent_provider_is_given_up(provider: Provider, impatient: Model, stall_after: int) -> None:
    provider.script(Answer(text=["one ", "two ", "three"], stall_after=stall_after))
    async with asyncio.timeout(20):
        answered = await answer(impatient, request("hi"))
    assert answered.text == ("one two " if stall_after else "")
    assert answered.failed.error.type is RunErrorType.LLM_TIMEOUT
    await provider.until(lambda: len(provider.disconnects) == 1)


async def test_a_connection_that_is_kept_open_without_a_word_is_given_up(provider: Provider, impatient: Model) -> None:
    """Each comment arrives well within the patience; all of them together do not."""
    said = Answer(text="Half").events(await _asked(provider, impatient))[:2]
    pings = [": ping"] * 3000
    provider.script(Events(of=[*said, *pings], paced_s=0.01), Events(of=pings, paced_s=0.01))
    for text in ("Half", ""):
        async with asyncio.timeout(20):
            answered = await answer(impatient, request("hi"))
        assert (answered.text, answered.failed.error.type) == (text, RunErrorType.LLM_TIMEOUT)
        assert not answered.failed.transient


async def test_nobody_there_is_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        registry = ModelRegistry(servers={"local": CompatibleServer(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")})
        failed = (await answer(registry.resolve("local/m"), request("hi"))).failed
        await registry.aclose()
    assert failed.error.type is RunErrorType.LLM_ERROR
    assert failed.error.message == "The provider could not be reached."


@pytest.mark.parametrize("empty", [Answer(), Answer(reasoning="Only thoughts.")])
async def test_an_answer_with_neither_text_nor_call_is_a_failure(provider: Provider, local: Model, empty: Answer) -> None:
    provider.script(empty)
    failed = (await answer(local, request("hi"))).failed
    assert failed.error.type is RunErrorType.LLM_EMPTY_RESPONSE
    assert failed.usage.output_tokens == 7


@pytest.mark.parametrize("body", [[], ["<html>We are back soon.</html>"], ['{"error": {"message": "busy"}}'], ["data: [DONE]"]])
async def test_an_answer_without_one_event_is_an_empty_one_that_may_be_asked_for_again(
    provider: Provider, local: Model, body: list[str]
) -> None:
    provider.script(Events(of=body))
    failed = (await answer(local, request("hi"))).failed
    assert (failed.error.type, failed.transient) == (RunErrorType.LLM_EMPTY_RESPONSE, True)
    assert failed.error.message == "The provider's answer held nothing that could be read."


async def test_an_answer_that_was_cut_while_thinking_is_not_called_empty(provider: Provider, local: Model) -> None:
    provider.script(Answer(reasoning="Only thoughts.", finish_reason="length"))
    assert (await answer(local, request("hi"))).finished.stop_reason is StopReason.MAX_TOKENS


@pytest.mark.parametrize("garbage", ["data: {", "data: [1]", 'data: {"choices": "x"}', 'data: {"choices": [{"delta": 7}]}'])
async def test_nonsense_from_the_server_is_a_failure_and_no_exception(provider: Provider, local: Model, garbage: str) -> None:
    provider.script(Events(of=[garbage]))
    failed = (await answer(local, request("hi"))).failed
    assert (failed.error.type, failed.transient) == (RunErrorType.LLM_EMPTY_RESPONSE, False)
    assert failed.error.message.startswith("The provider's answer could not be read: ")


async def test_the_next_call_works_after_each_failure(provider: Provider, local: Model) -> None:
    provider.script(Answer(status=500), Answer(text="half an answer", cut_after=2), Answer(status=401))
    for _ in range(3):
        assert (await answer(local, request("hi"))).failed
    assert (await answer(local, request("hi"))).text == "You said: hi"


# ---- hanging up


async def test_cancelling_the_task_hangs_up_at_once(provider: Provider, local: Model) -> None:
    provider.script(Answer(text="never to its end", stall_after=2))
    call = asyncio.create_task(answer(local, request("hi")))
    await provider.until(lambda: len(provider.requests) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await provider.until(lambda: len(provider.disconnects) == 1)


async def test_cancelling_before_the_first_chunk_hangs_up_too(provider: Provider, local: Model) -> None:
    provider.script(Answer(stall_after=0))
    call = asyncio.create_task(answer(local, request("hi")))
    await provider.until(lambda: len(provider.requests) == 1)
    call.cancel()
    await provider.until(lambda: len(provider.disconnects) == 1)
    assert (await asyncio.gather(call, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_who_stops_reading_hangs_up(provider: Provider, local: Model) -> None:
    provider.script(Answer(text="never to its end", stall_after=3))
    async with aclosing(local.stream(request("hi"))) as events:
        assert [type(await anext(events)) for _ in range(2)] == [TextStarted, Delta]
    await provider.until(lambda: len(provider.disconnects) == 1)


async def test_a_delta_is_handed_on_before_the_next_is_there(provider: Provider, local: Model) -> None:
    gate = asyncio.Event()
    provider.script(Answer(text=["first ", "second"], gates={2: gate}))
    async with aclosing(local.stream(request("hi"))) as events:
        assert [await anext(events), await anext(events)] == [TextStarted(0), Delta(0, "first ")]
        gate.set()
        assert await anext(events) == Delta(0, "second")
