"""What a summariser is asked: transcripts, the conversation as it stands, and shorter forms of both when its window is too small."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llm.model import ToolDefinition, UserTurn
from runs.compaction.summariser import ACKNOWLEDGEMENT, PROMPT, Assignment, middle_cut, requests, size, transcript
from tests.runs.compaction.windowed import words_of
from tests.runs.values import ANSWERED, ASKED, CALLED, RETURNED, SAID, message
from vocabulary.compaction import CompactionMode, CompactionSettings
from vocabulary.messages import ImagePart, MessageType, SummaryBody, TextPart, ToolReturnBody, UserBody
from vocabulary.model_settings import ModelSettings

BEFORE = message(MessageType.SUMMARY, "They met.", SummaryBody(), in_tail=False)
LONG_RETURN = replace(ANSWERED, body=ToolReturnBody(tool_returns=(replace(RETURNED, output="noon " * 4000),)))
CLOCK = ToolDefinition("clock", "Tells the time.", {"type": "object"})


def assigned(mode: CompactionMode = CompactionMode.ALL, **more: object) -> Assignment:
    settings = CompactionSettings(mode=mode, **more)  # type: ignore[arg-type]
    shown = [BEFORE, ASKED, CALLED, LONG_RETURN, SAID]
    return Assignment(shown=shown, mode=mode, settings=settings, model_settings=ModelSettings(), system="Be brief.", tools=[CLOCK])


def test_a_transcript_tells_who_said_and_did_what() -> None:
    seen = replace(ASKED, body=UserBody(content=(TextPart("Hi"), ImagePart("data:image/png;base64,AAAA")), sender="Ada"))
    assert transcript([BEFORE, seen, CALLED, ANSWERED, SAID]) == (
        "Summary of what was said before:\nThey met.\n\nUser (Ada): Hi [image]\n\nAssistant called clock: {}\n\nclock returned: noon\n\n"
        "Assistant: Hello."
    )


def test_a_summariser_is_given_the_prompt_and_a_transcript() -> None:
    first = next(requests(assigned(), 1_000_000))
    assert (first.system, len(first.history), first.tools) == (PROMPT, 1, ())
    assert "User: Hi" in words_of(first.history[0])


def test_an_acknowledged_prompt_begins_with_the_user_as_every_provider_wants_it() -> None:
    first = next(requests(assigned(prompt_acknowledgement=True, prompt="Sum up."), 1_000_000))
    assert [words_of(turn) for turn in first.history[:2]] == ["Sum up.", ACKNOWLEDGEMENT]
    assert [isinstance(turn, UserTurn) for turn in first.history] == [True, False, True]


def test_who_sums_itself_up_goes_on_with_the_conversation() -> None:
    first = next(requests(assigned(CompactionMode.SELF_COMPACT_ALL), 1_000_000))
    assert (first.system, first.tools) == ("Be brief.", [CLOCK])
    assert words_of(first.history[-1]) == PROMPT
    assert "They met." in words_of(first.history[0])


def test_each_form_is_shorter_than_the_one_before() -> None:
    for mode in (CompactionMode.ALL, CompactionMode.SELF_COMPACT_ALL):
        sizes = [size(request) for request in requests(assigned(mode), 100_000)]
        assert len(sizes) == 5
        assert sizes == sorted(sizes, reverse=True)


def test_what_is_known_not_to_fit_is_not_tried() -> None:
    for mode in (CompactionMode.ALL, CompactionMode.SELF_COMPACT_ALL):
        assert size(next(requests(assigned(mode), 1_500))) < 1_500


def test_a_window_that_leaves_too_little_beside_the_prompt_is_not_asked_to_sum_up_nothing() -> None:
    for mode in (CompactionMode.ALL, CompactionMode.SELF_COMPACT_ALL):
        prompt = size(next(requests(replace(assigned(mode), shown=[]), 1_000_000)))
        assert list(requests(assigned(mode), 1)) == []
        assert list(requests(assigned(mode), prompt)) == []
        told = [words_of(request.history[-1]) for request in requests(assigned(mode), prompt + 100)]
        assert len(told) == 3
        assert all("Summary of" in script for script in told)


@given(st.text(), st.integers(0, 50))
def test_what_is_cut_out_is_the_middle(text: str, most: int) -> None:
    cut = middle_cut(text, most)
    if len(text) <= most:
        assert cut == text
    else:
        assert cut.startswith(text[: most // 2])
        assert cut.endswith(text[len(text) - (most - most // 2) :])
        assert f"{len(text) - most} characters left out" in cut
