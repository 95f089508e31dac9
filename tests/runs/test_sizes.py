"""Sizes of contexts: the provider's count where it still holds, an estimate of what came since, and of everything else."""

from dataclasses import replace

from llm import tokens
from runs.sizes import measured, size, surely_exceeds
from tests.runs.values import ANSWERED, ASKED, CALLED, SAID, STEP, message
from vocabulary.messages import ImagePart, MessageType, SummaryBody, TextPart, UserBody
from vocabulary.runs import Usage

COUNTED = replace(STEP, usage=Usage(input_tokens=500, output_tokens=9, requests=1))
SYSTEM = message(MessageType.SYSTEM, "Be brief.", step_id=None, in_tail=False)


def test_what_a_message_says_and_what_it_holds_count() -> None:
    assert size(SAID) == tokens.count("Hello.") + tokens.PER_MESSAGE
    assert size(CALLED) > size(SAID)
    assert size(ANSWERED) > tokens.PER_MESSAGE
    seen = replace(ASKED, body=UserBody(content=(TextPart("Hi"), ImagePart("data:image/png;base64,AAAA"))))
    assert size(seen) == size(ASKED) + tokens.PER_IMAGE


def test_without_a_count_everything_is_estimated() -> None:
    sizes = measured([SYSTEM, ASKED, SAID], None)
    assert sizes.tokens == sum(map(size, [SYSTEM, ASKED, SAID]))
    assert sizes.scale == 1.0


def test_what_the_provider_counted_is_taken_and_only_the_rest_is_estimated() -> None:
    later = replace(ASKED, ordinal=9)
    sizes = measured([SYSTEM, ASKED, SAID, later], COUNTED)
    assert sizes.tokens == 500 + size(SAID) + size(later)
    assert 1.0 < sizes.scale <= 4.0


def test_a_count_from_before_a_compaction_holds_no_longer() -> None:
    summary = message(MessageType.SUMMARY, "They met.", SummaryBody(tail_ordinal=1), step_id="step-9", in_tail=False)
    kept = [SYSTEM, replace(summary, ordinal=5), ASKED, SAID]
    assert measured(kept, COUNTED).counted is None
    assert measured([SYSTEM, replace(summary, ordinal=5), ASKED, replace(SAID, ordinal=6)], COUNTED).counted == 500
    assert measured([SYSTEM, ASKED], COUNTED).counted is None


def test_a_text_surely_exceeds_a_window_when_no_vocabulary_can_make_it_fit() -> None:
    text = "Be kind. " * 300
    counted = tokens.count(text)
    assert not surely_exceeds(text, counted)
    assert not surely_exceeds(text, counted - 1)
    assert surely_exceeds(text, counted // 2)
    assert not surely_exceeds("\u4f60" * 100, 300)
