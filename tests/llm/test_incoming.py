"""Stream events that no simulation sends by itself: late signatures, parts that come back, nothing at all."""

from pydantic_ai.messages import (
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)

from llm.incoming import Incoming
from llm.model import Finished, ModelEvent, ReasoningEnded, TextStarted
from tests.llm.reading import Answered, read
from vocabulary.messages import HiddenReasoningState, ReasoningBody
from vocabulary.runs import StopReason, Usage


def fed(*events: ModelResponseStreamEvent, cut: bool = False) -> Answered:
    incoming = Incoming()
    ours: list[ModelEvent] = [ours for event in events for ours in incoming.feed(event)]
    return read([*ours, *incoming.close(cut=cut), Finished(Usage(), StopReason.END_TURN)])


def test_parts_with_nothing_in_them_are_not_shown() -> None:
    empty = [PartStartEvent(index=0, part=TextPart("")), PartStartEvent(index=1, part=ThinkingPart(""))]
    assert fed(*empty, PartDeltaEvent(index=0, delta=TextPartDelta(""))).parts == {}


def test_text_that_goes_on_after_another_part_is_a_new_part() -> None:
    answered = fed(
        PartStartEvent(index=0, part=TextPart("one")),
        PartStartEvent(index=1, part=ThinkingPart("hm")),
        PartDeltaEvent(index=0, delta=TextPartDelta("two")),
    )
    assert [(type(part.started) is TextStarted, part.text) for part in answered.parts.values()] == [
        (True, "one"),
        (False, "hm"),
        (True, "two"),
    ]


def test_a_signature_that_comes_late_is_kept() -> None:
    answered = fed(
        PartStartEvent(index=0, part=ThinkingPart("a", id="rs_1", provider_name="p")),
        PartStartEvent(index=1, part=ThinkingPart("b", id="rs_1", provider_name="p")),
        PartDeltaEvent(index=0, delta=ThinkingPartDelta(signature_delta="late\0", provider_name="p", provider_details={"k": "v\0"})),
    )
    (reasoning,) = answered.reasoning
    assert reasoning.text == "a\n\nb"
    kept = {"id": "rs_1", "details": {"k": "v�"}}
    assert reasoning.ended == ReasoningEnded(0, ReasoningBody(signature="late�", provider_name="p", provider_details=kept))


def test_redacted_blocks_side_by_side_stay_apart() -> None:
    blocks = [ThinkingPart("", id="redacted_thinking", signature=seal, provider_name="p") for seal in ("one", "two")]
    answered = fed(*(PartStartEvent(index=index, part=block) for index, block in enumerate(blocks)))
    assert [(event.body.signature, event.body.state) for event in answered.hidden] == [
        ("one", HiddenReasoningState.REDACTED),
        ("two", HiddenReasoningState.REDACTED),
    ]


def test_sealed_reasoning_without_words_is_hidden() -> None:
    answered = fed(PartStartEvent(index=0, part=ThinkingPart("", id="rs_1", signature="sealed", provider_name="p")))
    assert [event.body.state for event in answered.hidden] == [HiddenReasoningState.OMITTED]


def test_arguments_as_objects_become_json_text_at_the_end() -> None:
    answered = fed(
        PartStartEvent(index=0, part=ToolCallPart("clock", {"zone": "UTC\0"}, "id")),
        PartDeltaEvent(index=0, delta=ToolCallPartDelta(args_delta={"hours": 24})),
    )
    assert answered.calls == [("clock", '{"zone":"UTC�","hours":24}')]


def test_a_call_that_is_told_twice_is_one_call() -> None:
    call = PartStartEvent(index=0, part=ToolCallPart("clock", "{}", "id"))
    assert fed(call, call).calls == [("clock", "{}")]


def test_a_call_without_a_word_of_arguments_has_none_unless_the_model_was_cut() -> None:
    for nothing in (None, ""):
        started = PartStartEvent(index=0, part=ToolCallPart("clock", nothing, "id"))
        assert [fed(started, cut=cut).calls for cut in (False, True)] == [[("clock", "{}")], [("clock", "")]]


def test_arguments_that_were_given_are_kept_also_when_the_model_was_cut() -> None:
    for given, kept in (({}, "{}"), ({"hours": 24}, '{"hours":24}'), ('{"hou', '{"hou')):
        assert fed(PartStartEvent(index=0, part=ToolCallPart("clock", given, "id")), cut=True).calls == [("clock", kept)]
