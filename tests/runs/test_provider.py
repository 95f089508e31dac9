"""Real input: the engine against a real HTTP server that speaks chat-completions, when all goes well and in every way it can fail."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.provider import Answer, Call, Provider, Request
from tests.rig import Rig
from tests.runs.logs import checked, only, statuses, steps
from vocabulary.messages import ErrorBody, MessageStatus, MessageType, ToolCallBody, ToolCallState, ToolReturnBody
from vocabulary.runs import RunErrorType, RunStatus, StopReason, Usage

USAGE = Usage(input_tokens=11, output_tokens=7, cached_input_tokens=5, reasoning_tokens=3, requests=1)
ESTIMATED = Usage(requests=1, estimated=True)
CLOCK = Call("current_time", '{"zone": "Europe/Berlin", "why": "because I was asked"}')


async def test_what_is_stored_is_what_was_streamed(remote: Rig, provider: Provider) -> None:
    provider.script(
        Answer(reasoning="They want to know the time. 🕰️", text="Let me look.", tool_calls=[CLOCK, Call("nothing", "")], chunk_size=5),
        Answer(text=["It is ", "noon", ": grüß Gott, 世界 😀"], write_size=3),
    )
    conversation = await remote.conversation(model="local/m", tools=["current_time"])
    run = await remote.ended((await remote.say(conversation.id, "What time is it?")).run)
    assert (run.status, run.stop_reason, run.error) == (RunStatus.COMPLETED, StopReason.END_TURN, None)
    await checked(remote, conversation.id)
    history = await remote.history(conversation.id)
    assert [(message.type, message.text) for message in history] == [
        (MessageType.SYSTEM, "Be brief."),
        (MessageType.USER, "What time is it?"),
        (MessageType.REASONING, "They want to know the time. 🕰️"),
        (MessageType.ASSISTANT, "Let me look."),
        (MessageType.TOOL_CALL, ""),
        (MessageType.TOOL_RETURN, ""),
        (MessageType.ASSISTANT, "It is noon: grüß Gott, 世界 😀"),
    ]
    called, returned = only(history, MessageType.TOOL_CALL).body, only(history, MessageType.TOOL_RETURN).body
    assert isinstance(called, ToolCallBody)
    assert isinstance(returned, ToolReturnBody)
    assert [(call.name, call.arguments_text, call.state) for call in called.tool_calls] == [
        ("current_time", CLOCK.arguments, ToolCallState.COMPLETED),
        ("nothing", "{}", ToolCallState.FAILED),
    ]
    assert [item.tool_call_id for item in returned.tool_returns] == [call.id for call in called.tool_calls]


async def test_usage_is_stored_for_each_step_and_added_up_for_the_run(remote: Rig, provider: Provider) -> None:
    provider.script(Answer(tool_calls=[CLOCK]), Answer(text="Noon."))
    conversation = await remote.conversation(model="local/m", tools=["current_time"])
    run = await remote.ended((await remote.say(conversation.id, "What time is it?")).run)
    assert run.usage == USAGE + USAGE
    assert run.time_to_first_token_ms is not None
    assert [(step.index, step.usage, step.stop_reason) for step in await steps(remote, run.id)] == [
        (0, USAGE, StopReason.END_TURN),
        (1, USAGE, StopReason.END_TURN),
    ]


async def test_usage_that_a_provider_does_not_tell_is_estimated(remote: Rig, provider: Provider) -> None:
    """A token per four characters: of 21 that were shown, and 16 that were said."""
    provider.script(Answer(text="Noon, more or le", usage=None))
    conversation = await remote.conversation(model="local/m")
    run = await remote.ended((await remote.say(conversation.id, "What time is")).run)
    assert run.usage == Usage(input_tokens=6, output_tokens=4, requests=1, estimated=True)
    assert [step.usage for step in await steps(remote, run.id)] == [run.usage]


async def test_a_second_call_is_shown_the_first_with_its_return(remote: Rig, provider: Provider) -> None:
    provider.script(Answer(reasoning="Hm.", tool_calls=[CLOCK]), Answer(text="Noon."))
    conversation = await remote.conversation(model="local/m", tools=["current_time"])
    await remote.ended((await remote.say(conversation.id, "What time is it?")).run)
    asked = _well_formed(provider.requests[1])
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool"]
    called = asked[2]["tool_calls"][0]["function"]
    assert (called["name"], json.loads(called["arguments"])) == ("current_time", json.loads(CLOCK.arguments))
    assert asked[3]["content"] == _returned(await remote.history(conversation.id))


async def test_text_that_no_database_would_take_is_mended_on_the_way_in(remote: Rig, provider: Provider) -> None:
    provider.script(
        Answer(text=["a\0b", "\ud83d", "\ude00 c\udc00"], tool_calls=[Call("clo\0ck", '{"\ud83d": "\0"}')], escaped=True, chunk_size=3),
        Answer(status=400, error={"error": {"message": "bad \0 \ud83d thing"}}),
    )
    conversation = await remote.conversation(model="local/m")
    run = await remote.ended((await remote.say(conversation.id, "Hi")).run)
    await checked(remote, conversation.id)
    history = await remote.history(conversation.id)
    assert only(history, MessageType.ASSISTANT).text == "a\ufffdb😀 c\ufffd"
    assert run.error is not None
    assert run.error.message == "The provider answered 400: bad \ufffd \ufffd thing"


# ---- failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`answers`: up to the one that fails. `text`: what it had said by then. `kinds`: all that the run leaves in history. `usage`: as
    reported; tokens are estimated on top of it when something was said.
    """

    answers: Sequence[Answer]
    error: RunErrorType
    kinds: Sequence[MessageType] = ()
    text: str = ""
    usage: Usage = ESTIMATED

    @property
    def was_heard(self) -> bool:
        last = self.answers[-1]
        return (last.cut_after or last.stall_after or 0) > 1


CUT = "Half of what I wanted to say"
FAILURES = {
    "not authorised": Failure(answers=[Answer(status=401)], error=RunErrorType.LLM_AUTHENTICATION),
    "too many requests": Failure(answers=[Answer(status=429)], error=RunErrorType.LLM_RATE_LIMIT),
    "server error": Failure(answers=[Answer(status=500)], error=RunErrorType.LLM_ERROR),
    "overloaded": Failure(answers=[Answer(status=503)], error=RunErrorType.LLM_OVERLOADED),
    "bad request": Failure(answers=[Answer(status=400)], error=RunErrorType.LLM_BAD_REQUEST),
    "stall before the first word": Failure(answers=[Answer(text=CUT, stall_after=0)], error=RunErrorType.LLM_TIMEOUT),
    "stall in the text": Failure(
        answers=[Answer(text=CUT, stall_after=3)], error=RunErrorType.LLM_TIMEOUT, kinds=[MessageType.ASSISTANT], text=CUT[:16]
    ),
    "cut before the first word": Failure(answers=[Answer(text=CUT, cut_after=1)], error=RunErrorType.LLM_ERROR),
    "cut in the text": Failure(
        answers=[Answer(text=CUT, cut_after=3)], error=RunErrorType.LLM_ERROR, kinds=[MessageType.ASSISTANT], text=CUT[:16]
    ),
    "cut politely": Failure(
        answers=[Answer(text=CUT, cut_after=3, politely=True)],
        error=RunErrorType.LLM_ERROR,
        kinds=[MessageType.ASSISTANT],
        text=CUT[:16],
    ),
    "cut in the reasoning": Failure(
        answers=[Answer(reasoning=CUT, cut_after=3)], error=RunErrorType.LLM_ERROR, kinds=[MessageType.REASONING], text=CUT[:16]
    ),
    "cut after the reasoning": Failure(
        answers=[Answer(reasoning="Hm.", text=CUT, cut_after=3)],
        error=RunErrorType.LLM_ERROR,
        kinds=[MessageType.REASONING, MessageType.ASSISTANT],
        text=CUT[:8],
    ),
    "cut in the arguments": Failure(
        answers=[Answer(reasoning="Hm.", tool_calls=[CLOCK], cut_after=4)],
        error=RunErrorType.LLM_ERROR,
        kinds=[MessageType.REASONING, MessageType.TOOL_CALL],
    ),
    "cut in the text before a call": Failure(
        answers=[Answer(text="Wait.", tool_calls=[CLOCK], cut_after=4)],
        error=RunErrorType.LLM_ERROR,
        kinds=[MessageType.ASSISTANT, MessageType.TOOL_CALL],
    ),
    "failed in the second step": Failure(
        answers=[Answer(tool_calls=[CLOCK]), Answer(text=CUT, cut_after=3)],
        error=RunErrorType.LLM_ERROR,
        kinds=[MessageType.TOOL_CALL, MessageType.TOOL_RETURN, MessageType.ASSISTANT],
        text=CUT[:16],
        usage=USAGE + ESTIMATED,
    ),
    "refused in the second step": Failure(
        answers=[Answer(reasoning="Hm.", tool_calls=[CLOCK]), Answer(status=429)],
        error=RunErrorType.LLM_RATE_LIMIT,
        kinds=[MessageType.REASONING, MessageType.TOOL_CALL, MessageType.TOOL_RETURN],
        usage=USAGE + ESTIMATED,
    ),
    "nothing said": Failure(answers=[Answer()], error=RunErrorType.LLM_EMPTY_RESPONSE, usage=USAGE),
}


@pytest.mark.parametrize(
    ("failure", "patience_s"),
    [pytest.param(failure, 0.3 if "stall" in name else 20, id=name) for name, failure in FAILURES.items()],
)
async def test_a_failure_keeps_what_was_said_and_the_talk_goes_on(remote: Rig, provider: Provider, failure: Failure) -> None:
    provider.script(*failure.answers)
    conversation = await remote.conversation(model="local/m", tools=["current_time"])
    run = await remote.ended((await remote.say(conversation.id, "The question")).run)
    assert run.error is not None
    assert (run.status, run.error.type) == (RunStatus.FAILED, failure.error)
    assert (run.usage.requests, run.usage.estimated) == (failure.usage.requests, failure.usage.estimated)
    assert (run.usage.input_tokens > failure.usage.input_tokens) is failure.was_heard
    assert (run.usage.output_tokens > failure.usage.output_tokens) is failure.was_heard
    assert sum((step.usage for step in await steps(remote, run.id)), Usage()) == run.usage
    assert statuses(await checked(remote, conversation.id), run.id)[-1] is RunStatus.FAILED
    _, user, *left, told = await remote.history(conversation.id)
    assert (user.text, user.status, user.in_context) == ("The question", MessageStatus.COMPLETED, True)
    assert [message.type for message in left] == list(failure.kinds)
    assert told.body == ErrorBody(error=run.error)
    if failure.text:
        assert (left[-1].text, left[-1].status) == (failure.text, MessageStatus.INTERRUPTED)
    await _goes_on(remote, provider, conversation.id, [message.text for message in left if message.type is MessageType.ASSISTANT])


async def _goes_on(remote: Rig, provider: Provider, conversation_id: str, said: Sequence[str]) -> None:
    """The next send is answered, and its model is shown what was said before the failure, in a form that any provider takes."""
    run = await remote.ended((await remote.say(conversation_id, "And now?")).run)
    assert run.status is RunStatus.COMPLETED
    await checked(remote, conversation_id)
    asked = _well_formed(provider.requests[-1])
    questions = [message["content"] for message in asked if message["role"] == "user"]
    assert "\n\n".join(questions) == "The question\n\nAnd now?", "neighbours go as one to such servers"
    assert [message["content"] for message in asked if message["role"] == "assistant" and message.get("content")] == said


def _well_formed(request: Request) -> list[dict[str, Any]]:
    """What every provider accepts: each call answered at once and once, no empty answers, no reasoning on its own."""
    messages: list[dict[str, Any]] = request.body["messages"]
    awaited: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in awaited, messages
            awaited.remove(message["tool_call_id"])
            continue
        assert awaited == [], messages
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        awaited = [call["id"] for call in calls]
        assert message.get("content") or awaited, messages
    assert awaited == [], messages
    return messages


def _returned(history: Sequence[Any]) -> str:
    body = only(history, MessageType.TOOL_RETURN).body
    assert isinstance(body, ToolReturnBody)
    return body.tool_returns[0].output


@pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
async def test_a_call_whose_arguments_were_cut_off_is_not_run_without_them(remote: Rig, provider: Provider, finish_reason: str) -> None:
    provider.script(Answer(tool_calls=[Call("current_time", "")], finish_reason=finish_reason), Answer(text="Then not."))
    conversation = await remote.conversation(model="local/m", tools=["current_time"])
    run = await remote.ended((await remote.say(conversation.id, "What time is it?")).run)
    assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, StopReason.END_TURN)
    await checked(remote, conversation.id)
    history = await remote.history(conversation.id)
    called = only(history, MessageType.TOOL_CALL).body
    assert isinstance(called, ToolCallBody)
    assert [(call.arguments_text, call.state) for call in called.tool_calls] == [("", ToolCallState.FAILED)]
    assert _returned(history).startswith("The arguments cannot be read as JSON")
    assert _returned(history) in _well_formed(provider.requests[-1])[-1]["content"]


async def test_a_context_that_the_provider_refuses_is_compacted_and_asked_again(remote: Rig, provider: Provider) -> None:
    too_long = {"error": {"message": "This model's maximum context length is 512 tokens.", "code": "context_length_exceeded"}}
    conversation = await remote.conversation(model="local/m", tools=["current_time"])
    for number in range(4):
        provider.script(Answer(text="Let me look.", tool_calls=[CLOCK]), Answer(text=f"Noon, for the {number}th time. " * 5))
        await remote.ended((await remote.say(conversation.id, f"What time is it? {number}")).run)
    provider.script(Answer(status=400, error=too_long), Answer(text="They asked for the time."), Answer(text="Still noon."))
    run = await remote.ended((await remote.say(conversation.id, "And now?")).run)
    assert (run.status, run.stop_reason, run.error) == (RunStatus.COMPLETED, StopReason.END_TURN, None)
    refused, summing, asked = (request.body["messages"] for request in provider.requests[-3:])
    assert "<transcript>" in summing[-1]["content"]
    assert len(asked) < len(refused)
    assert asked[0] == refused[0]
    assert asked[-1]["content"].endswith("And now?")
    assert [message["role"] for message in asked[:2]] == ["system", "user"]
    assert "They asked for the time." in str(asked[1]["content"])
    called = [call["id"] for message in asked for call in message.get("tool_calls", ())]
    assert [message["tool_call_id"] for message in asked if message["role"] == "tool"] == called
    await checked(remote, conversation.id)
