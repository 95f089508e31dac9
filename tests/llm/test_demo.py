"""demo/echo keeps the contract of a real model, and does what its head promises."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.demo import DemoModel
from llm.model import (
    AssistantTurn,
    CalledTool,
    Delta,
    Finished,
    ModelRequest,
    ReasoningEnded,
    ReturnedTool,
    ToolCallStarted,
    ToolCallTurn,
    ToolReturnTurn,
    UserTurn,
)
from tests.llm.reading import answer, request
from vocabulary.messages import ImagePart, ReasoningBody, TextPart, ToolReturnStatus
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import StopReason, Usage

demo = DemoModel()


async def test_the_answer_quotes_the_last_message_of_the_user_word_by_word() -> None:
    answered = await answer(demo, request("first", AssistantTurn("x"), "hello  brave\nnew world"))
    assert answered.text == "You said: hello  brave\nnew world"
    assert answered.parts[0].deltas == ["You", " said:", " hello", "  brave", "\nnew", " world"]


async def test_the_same_request_gets_the_same_answer() -> None:
    asked = request("/think and tell")
    assert (await answer(demo, asked)).events == (await answer(demo, asked)).events


async def test_usage_counts_words() -> None:
    answered = await answer(demo, request("one two", system="Be very brief."))
    assert answered.finished == Finished(Usage(input_tokens=5, output_tokens=4, reasoning_tokens=0, requests=1), StopReason.END_TURN)


async def test_think_puts_reasoning_before_the_text() -> None:
    answered = await answer(demo, request("/think twice"))
    reasoning, text = answered.parts.values()
    assert reasoning.text == "The user wrote 2 words. I will quote them."
    assert reasoning.ended == ReasoningEnded(0, ReasoningBody(provider_name="demo"))
    assert text.text == "You said: /think twice"
    assert answered.finished.usage.reasoning_tokens == 9
    assert answered.finished.usage.output_tokens == 13


async def test_tool_calls_the_tool_with_streamed_arguments() -> None:
    answered = await answer(demo, request('please /tool clock {"zone": {"name": "UTC"}} now'))
    assert answered.calls == [("clock", '{"zone": {"name": "UTC"}}')]
    assert len(answered.parts[0].deltas) > 1
    assert answered.text == ""


async def test_several_commands_are_parallel_calls_with_ids_of_their_own() -> None:
    earlier = [
        ToolCallTurn((CalledTool("call_0", "a", "{}"),)),
        ToolReturnTurn((ReturnedTool("call_0", "a", ToolReturnStatus.SUCCESS, "1"),)),
    ]
    answered = await answer(demo, request("/tool a", *earlier, '/tool a /tool b {"say": "/tool c"}'))
    assert answered.calls == [("a", "{}"), ("b", '{"say": "/tool c"}')]
    ids = [part.started.provider_call_id for part in answered.parts.values() if isinstance(part.started, ToolCallStarted)]
    assert ids == ["call_1", "call_2"]


async def test_arguments_that_are_not_json_are_sent_as_they_are() -> None:
    answered = await answer(demo, request("/tool clock {zone: UTC}\nand so on"))
    assert answered.calls == [("clock", "{zone: UTC}")]


async def test_a_number_that_python_will_not_read_is_sent_as_it_is() -> None:
    arguments = f'{{"count": {"9" * 5000}}}'
    answered = await answer(demo, request(f"/tool clock {arguments}\nand so on"))
    assert answered.calls == [("clock", arguments)]


async def test_the_answer_to_a_return_quotes_it() -> None:
    called = ToolCallTurn((CalledTool("1", "a", "{}"), CalledTool("2", "b", "{}")))
    returned = ToolReturnTurn(
        (ReturnedTool("1", "a", ToolReturnStatus.SUCCESS, "ten past nine"), ReturnedTool("2", "b", ToolReturnStatus.ERROR, "no such zone"))
    )
    answered = await answer(demo, request("/tool a /tool b", called, returned))
    assert answered.text == "The tool a returned: ten past nine The tool b failed with: no such zone"


async def test_an_image_is_mentioned() -> None:
    turn = UserTurn((TextPart("look:"), ImagePart("https://example.org/a.png")))
    assert (await answer(demo, request(turn))).text == "You said: look: (an image)"


@pytest.mark.parametrize("asked", [request(), request(""), request(AssistantTurn("I"))])
async def test_without_words_of_the_user_there_is_an_answer_too(asked: ModelRequest) -> None:
    assert (await answer(demo, asked)).text == "You said nothing that I can read."


async def test_the_limit_for_the_output_cuts_the_text() -> None:
    answered = await answer(demo, request("one two three", settings=ModelSettings(max_output_tokens=3)))
    assert answered.text == "You said: one"
    assert answered.finished.stop_reason is StopReason.MAX_TOKENS


async def test_a_transcript_is_summed_up_and_the_commands_in_it_are_not_obeyed() -> None:
    answered = await answer(demo, request("<transcript>\nUser: /think of /tool clock\n\nAssistant: No.\n</transcript>\n\nSum it up."))
    assert (answered.text, answered.calls) == ("They said: User: … No.", [])
    long = await answer(demo, request(f"<transcript>\nFirst {'word ' * 5_000} last\n</transcript>"))
    assert long.text.startswith("They said: First word word")
    assert long.text.endswith("word last")
    assert len(long.text.split()) == 43


async def test_a_very_long_message_is_not_quoted_to_its_end() -> None:
    answered = await answer(demo, request("word " * 5_000))
    assert answered.text.endswith(" …")
    assert len(answered.text.split()) == 1_003


@given(st.text(alphabet=st.sampled_from('a{"}:/tool \n\0\ud83d\ude00'), max_size=40))
async def test_whatever_is_said_the_stream_keeps_its_contract(said: str) -> None:
    answered = await answer(demo, request(f"/think /tool x {said}"))
    assert answered.calls


async def test_a_delay_lets_other_tasks_run_between_words() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    seen = [ticks async for event in demo.stream(request("one two three")) if isinstance(event, Delta)]
    ticking.cancel()
    assert sorted(set(seen)) == seen


async def test_the_arguments_of_a_command_are_valid_json_when_the_user_wrote_valid_json() -> None:
    arguments = {"text": "ünïcode 😀", "list": [1, 2.5, None, True]}
    answered = await answer(demo, request(f"/tool echo {json.dumps(arguments, ensure_ascii=False)}"))
    assert json.loads(answered.calls[0][1]) == arguments
