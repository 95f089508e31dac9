"""How writes become rows and events: one number each, places in history kept from batch to batch."""

from dataclasses import replace
from datetime import UTC, datetime

from db.conversations import ContextMove
from runs.writing.writes import (
    Append,
    Call,
    Close,
    Compact,
    EndStep,
    Open,
    Recompile,
    Rows,
    StartStep,
    Summarise,
    Whole,
    Write,
    lay_out,
    ordinals,
)
from tests.runs.values import CALL, MESSAGE, RUN, STEP
from vocabulary.compaction import CompactionMode, CompactionStats, CompactionTrigger
from vocabulary.events import (
    ContextCompacted,
    Event,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    RunChanged,
    ToolCallChanged,
)
from vocabulary.messages import MessageStatus, MessageType, SummaryBody, ToolCallBody, ToolCallState
from vocabulary.runs import RunStatus, StopReason

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OPENED = replace(MESSAGE, status=MessageStatus.IN_PROGRESS, ordinal=None, sequence=0, text="")
CLOSED = replace(OPENED, status=MessageStatus.COMPLETED, text="Hi!")


def _append(text: str, *, offset: int = 0, message_id: str = OPENED.id, call_id: str | None = None) -> Append:
    return Append(message_id, MessageType.ASSISTANT, call_id, offset, text)


def _laid_out(*writes: Write, first_sequence: int = 10, first_ordinal: int = 4, places: dict[str, int] | None = None) -> Rows:
    rows = Rows(prompts={RUN.conversation_id: "As it is now."})
    places = {} if places is None else places
    lay_out(rows, writes, run=RUN, first_sequence=first_sequence, first_ordinal=first_ordinal, places=places, now=NOW)
    return rows


def test_every_write_gets_one_number_in_order() -> None:
    rows = _laid_out(StartStep(STEP, RUN), Open(OPENED), _append("Hi"), _append("!", offset=2), Close(CLOSED), EndStep(STEP, RUN))
    assert [event.sequence for event in rows.events] == [10, 11, 12, 13, 14, 15]
    assert {(event.conversation_id, event.run_id, event.occurred_at) for event in rows.events} == {(RUN.conversation_id, RUN.id, NOW)}


def test_an_answer_starts_grows_and_is_closed_in_one_place() -> None:
    rows = _laid_out(Open(OPENED), _append("Hi!"), Close(CLOSED))
    started, completed = replace(OPENED, ordinal=4, sequence=10), replace(CLOSED, ordinal=4, sequence=12)
    assert [event.payload for event in rows.events] == [
        MessageStarted(started),
        MessageDelta(OPENED.id, MessageType.ASSISTANT, 0, "Hi!"),
        MessageCompleted(completed),
    ]
    assert (rows.created, rows.closed, rows.changed) == ([started], [completed], [])


def test_a_message_is_closed_in_a_later_batch_at_the_place_where_it_was_opened() -> None:
    places: dict[str, int] = {}
    _laid_out(Open(OPENED), places=places)
    assert _laid_out(Close(CLOSED), first_sequence=20, first_ordinal=9, places=places).closed == [replace(CLOSED, ordinal=4, sequence=20)]


def test_places_go_to_what_enters_history_and_to_nothing_else() -> None:
    other = replace(MESSAGE, id="message-2", type=MessageType.TOOL_RETURN)
    writes = [StartStep(STEP, RUN), Open(OPENED), _append("Hi"), Whole(other), Close(CLOSED)]
    assert ordinals(writes) == 2
    assert [message.ordinal for message in _laid_out(*writes).created] == [4, 5]


def test_a_call_that_appears_is_an_event_and_one_that_moves_on_is_a_row_too() -> None:
    calls = replace(OPENED, type=MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(CALL,)))
    appeared = _laid_out(Open(calls), Call(calls, CALL, stored=False))
    assert appeared.changed == []
    running = replace(CALL, state=ToolCallState.RUNNING)
    moved = _laid_out(Call(calls, running, stored=True), places={calls.id: 4})
    assert moved.changed == [replace(calls, ordinal=4, sequence=10)]
    assert [event.payload for event in appeared.events[1:] + moved.events] == [
        ToolCallChanged(calls.id, MessageType.TOOL_CALL, CALL),
        ToolCallChanged(calls.id, MessageType.TOOL_CALL, running),
    ]


def test_of_a_run_that_changed_twice_the_last_change_is_stored_and_both_are_told() -> None:
    ended = replace(RUN, status=RunStatus.COMPLETED, stop_reason=StopReason.END_TURN)
    rows = _laid_out(StartStep(STEP, RUN), EndStep(replace(STEP, completed_at=NOW), ended))
    told = replace(ended, sequence=11, completed_at=NOW)  # when that is stored, as its conversation tells
    assert rows.runs == {RUN.id: told}
    assert [event.payload for event in rows.events] == [
        RunChanged(replace(RUN, sequence=10), RunStatus.RUNNING, None),
        RunChanged(told, RunStatus.COMPLETED, StopReason.END_TURN),
    ]
    assert (rows.started_steps, rows.changed_steps) == ([STEP], [replace(STEP, completed_at=NOW)])


def test_several_runs_lie_in_one_set_of_rows() -> None:
    rows, other = Rows(), replace(RUN, id="run-2", conversation_id="conv-2")
    for run, first in ((RUN, 10), (other, 3)):
        lay_out(rows, [StartStep(replace(STEP, run_id=run.id), run)], run=run, first_sequence=first, first_ordinal=1, places={}, now=NOW)
    assert [_place(event) for event in rows.events] == [(RUN.conversation_id, 10), ("conv-2", 3)]
    assert list(rows.runs) == [RUN.id, "run-2"]


def _place(event: Event) -> tuple[str, int]:
    return event.conversation_id, event.sequence


def test_neighbouring_pieces_of_one_text_join() -> None:
    assert _append("Hi").joined(_append("!", offset=2)) == _append("Hi!")


def test_pieces_of_different_texts_do_not_join() -> None:
    assert _append("Hi").joined(_append("!", message_id="message-2")) is None
    assert _append("{", call_id="toolcall-1").joined(_append("}", call_id="toolcall-2")) is None
    assert _append("{", call_id="toolcall-1").joined(_append("!")) is None


SUMMARY = replace(MESSAGE, id="message-s", type=MessageType.SUMMARY, body=SummaryBody(), ordinal=None, sequence=0, in_tail=False)
STATS = CompactionStats(
    trigger=CompactionTrigger.MANUAL, mode=CompactionMode.ALL, messages_before=9, messages_after=3, tokens_before=90, tokens_after=30
)


def test_a_summary_takes_its_place_and_the_tail_begins_with_what_was_kept() -> None:
    kept, system = replace(MESSAGE, id="message-k", ordinal=3), replace(MESSAGE, id="message-1", type=MessageType.SYSTEM, ordinal=1)
    writes = [Summarise(SUMMARY, kept), Recompile(system), Compact(SUMMARY.id, kept, STATS)]
    assert ordinals(writes) == 1
    rows = _laid_out(*writes)
    written = replace(SUMMARY, ordinal=4, sequence=10, body=SummaryBody(tail_ordinal=3))
    recompiled = replace(system, text="As it is now.", sequence=11)
    assert (rows.created, rows.changed) == ([written], [recompiled])
    assert rows.moves == [ContextMove(RUN.conversation_id, SUMMARY.id, 3)]
    assert [event.payload for event in rows.events] == [
        MessageCompleted(written),
        MessageChanged(recompiled),
        ContextCompacted(written, "message-k", STATS),
    ]


def test_with_nothing_kept_the_tail_begins_behind_the_summary() -> None:
    rows = _laid_out(Summarise(SUMMARY, None), Compact(SUMMARY.id, None, STATS))
    assert rows.moves == [ContextMove(RUN.conversation_id, SUMMARY.id, 5)]
    payload = rows.events[-1].payload
    assert isinstance(payload, ContextCompacted)
    assert payload.first_kept_message_id is None
