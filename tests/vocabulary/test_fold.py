"""Merging: the same text in fewer events, in their order, and never across anything."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.db.rows import NOON, a_message
from vocabulary.events import DeltaMode, Event, MessageCompleted, MessageDelta
from vocabulary.fold import coalesced, merged, shown
from vocabulary.messages import MessageType
from vocabulary.text import utf16_length

Text = tuple[str, str | None]
"""A message, or a tool call in it."""

texts = st.sampled_from([("message-1", None), ("message-2", None), ("message-3", "toolcall-1"), ("message-3", "toolcall-2")])
pieces = st.text(alphabet="a🚀é\n", min_size=1, max_size=3)
scripts = st.lists(st.one_of(st.tuples(texts, pieces), st.none()), max_size=30)


def event(sequence: int, payload: MessageDelta | MessageCompleted | None) -> Event:
    return Event("conv-1", sequence, NOON, "run-1", payload)


def log(script: list[tuple[Text, str] | None]) -> list[Event]:
    """Deltas whose offsets are right, and other events between them."""
    lengths: dict[Text, int] = {}
    events: list[Event] = []
    for sequence, said in enumerate(script, 1):
        if said is None:
            events.append(event(sequence, MessageCompleted(a_message("conv-1", id=f"message-{sequence}00"))))
            continue
        (message_id, call_id), piece = text, _ = said
        offset = lengths.get(text, 0)
        lengths[text] = offset + utf16_length(piece)
        events.append(event(sequence, MessageDelta(message_id, MessageType.ASSISTANT, offset, piece, call_id)))
    return events


def grown(events: list[Event]) -> dict[Text, str]:
    """By the offsets, as a client would."""
    found: dict[Text, str] = {}
    for one in events:
        if isinstance(delta := one.payload, MessageDelta):
            text = (delta.message_id, delta.tool_call_id)
            assert utf16_length(found.get(text, "")) == delta.offset
            found[text] = found.get(text, "") + delta.text
    return found


def others(events: list[Event]) -> list[Event]:
    return [one for one in events if not isinstance(one.payload, MessageDelta)]


@given(scripts)
def test_merged_deltas_say_what_they_said_one_by_one(script: list[tuple[Text, str] | None]) -> None:
    assert grown(coalesced(log(script))) == grown(log(script))


@given(scripts)
def test_what_is_no_delta_stays_as_it_is_with_the_same_text_before_it(script: list[tuple[Text, str] | None]) -> None:
    events, folded = log(script), coalesced(log(script))
    assert others(folded) == others(events)
    for other in others(events):
        assert grown(folded[: folded.index(other)]) == grown(events[: events.index(other)])


@given(scripts)
def test_nothing_is_left_that_could_be_merged_and_merging_again_changes_nothing(script: list[tuple[Text, str] | None]) -> None:
    folded = coalesced(log(script))
    assert all(merged(a, b) is None for a, b in pairwise(folded))
    assert coalesced(folded) == folded


@given(scripts)
def test_numbers_rise_and_the_last_is_kept_so_that_a_client_resumes_behind_what_it_has(script: list[tuple[Text, str] | None]) -> None:
    events, folded = log(script), coalesced(log(script))
    numbers = [one.sequence for one in folded]
    assert numbers == sorted(set(numbers))
    assert numbers[-1:] == [one.sequence for one in events][-1:]


@given(scripts, st.integers(min_value=0, max_value=30))
def test_what_is_merged_in_two_parts_says_the_same(script: list[tuple[Text, str] | None], cut: int) -> None:
    events = log(script)
    assert grown(coalesced(events[:cut]) + coalesced(events[cut:])) == grown(events)


def test_deltas_of_two_texts_do_not_merge() -> None:
    script: list[tuple[Text, str] | None] = [(("m", None), "a"), (("m", "call"), "b"), (("m", "other"), "c"), (("n", None), "d")]
    assert coalesced(log(script)) == log(script)


def test_a_delta_does_not_cross_an_event_of_an_unknown_kind() -> None:
    a, b = log([(("m", None), "a"), (("m", None), "b")])
    unknown = event(2, None)
    assert coalesced([a, unknown, b]) == [a, unknown, b]


@given(scripts)
def test_each_mode_shows_its_own(script: list[tuple[Text, str] | None]) -> None:
    events = log(script)
    assert shown(events, DeltaMode.ALL) == events
    assert shown(events, DeltaMode.COALESCED) == coalesced(events)
    assert shown(events, DeltaMode.NONE) == others(events)
