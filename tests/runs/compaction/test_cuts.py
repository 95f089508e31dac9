"""Where a context may be cut: between steps, around what waits, and only if fewer messages are left."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from runs.compaction.cuts import SLIDING, Cut, Room, choose, legal
from tests.runs.values import CALL, RUN, message
from vocabulary.compaction import CompactionMode
from vocabulary.messages import (
    Message,
    MessageType,
    ReasoningBody,
    TextPart,
    ToolCallBody,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
    UserBody,
)

WIDE = Room(fixed=0, budget=1e9)


def said(text: str = "Hi") -> Message:
    return message(MessageType.USER, text, UserBody(content=(TextPart(text),)), step_id=None)


def answered(step: str) -> list[Message]:
    return [message(MessageType.REASONING, "Hm.", ReasoningBody(signature="s"), step_id=step), message(text="Yes.", step_id=step)]


def called(step: str, *, returned: bool = True) -> list[Message]:
    call = replace(CALL, id=f"toolcall-{step}")
    back = ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.SUCCESS, output="noon")
    calls = [
        message(MessageType.REASONING, "Hm.", ReasoningBody(signature="s"), step_id=step),
        message(MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(call,)), step_id=step),
    ]
    return [*calls, message(MessageType.TOOL_RETURN, body=ToolReturnBody(tool_returns=(back,)), step_id=step)] if returned else calls


def tail_of(*parts: Sequence[Message]) -> list[Message]:
    """With ids and ordinals of their own."""
    whole = [one for part in parts for one in part]
    return [replace(one, id=f"message-{place}", ordinal=place) for place, one in enumerate(whole, 2)]


def cut_at(cut: Cut | None) -> int | None:
    return None if cut is None else len(cut.evicted)


def chosen(
    tail: Sequence[Message],
    mode: CompactionMode = CompactionMode.SLIDING_WINDOW,
    *,
    fraction: float = 0.3,
    room: Room = WIDE,
    summarised: bool = False,
    awaited: str | None = None,
) -> Cut | None:
    return choose(tail, [10] * len(tail), mode=mode, fraction=fraction, room=room, summarised=summarised, awaited=awaited)


def test_a_cut_falls_between_steps() -> None:
    assert legal(tail_of([said()], answered("a"), [said(), said()], called("b"))) == [1, 3, 4, 5, 8]


def test_a_call_stays_with_a_return_that_came_much_later() -> None:
    calls, late = called("a", returned=False), called("a")[-1:]
    assert legal(tail_of([said()], calls, [said()], late, [said()])) == [1, 5, 6]


def test_a_call_that_waits_is_kept_with_its_whole_step_in_every_mode() -> None:
    tail = tail_of([said()], answered("a"), [said()], called("b", returned=False))
    assert legal(tail) == [1, 3, 4]
    for mode in CompactionMode:
        cut = chosen(tail, mode)
        assert cut is not None
        assert [one.step_id for one in cut.kept[-2:]] == ["b", "b"]


def test_all_keeps_nothing_but_what_waits() -> None:
    tail = tail_of([said()], answered("a"), [said()], answered("b"))
    assert cut_at(chosen(tail, CompactionMode.ALL)) == len(tail)
    assert cut_at(chosen(tail_of([said()], answered("a"), called("b", returned=False)), CompactionMode.SELF_COMPACT_ALL)) == 3


def test_what_nobody_has_answered_yet_is_kept_when_it_must_be() -> None:
    tail = tail_of([said()], answered("a"), [said(), said()])
    assert cut_at(chosen(tail, CompactionMode.ALL, awaited=RUN.id)) == 3
    assert cut_at(chosen(tail, CompactionMode.ALL)) == 5
    earlier = [replace(one, run_id="run-0") for one in tail[:-1]]
    assert cut_at(chosen([*earlier, tail[-1]], CompactionMode.ALL, awaited=RUN.id)) == 4


def test_a_sliding_window_evicts_about_its_fraction() -> None:
    tail = tail_of(*([said()] for _ in range(10)))
    assert [cut_at(chosen(tail, fraction=fraction)) for fraction in (0.2, 0.3, 0.55, 0.9)] == [2, 3, 6, 9]


def test_it_grows_by_a_tenth_until_the_rest_fits() -> None:
    tail = tail_of(*([said()] for _ in range(10)))
    assert cut_at(chosen(tail, room=Room(fixed=20, budget=95))) == 3
    assert cut_at(chosen(tail, room=Room(fixed=20, budget=75))) == 5
    assert cut_at(chosen(tail, room=Room(fixed=20, budget=30))) == 9


def test_what_cannot_slide_is_summarised_whole() -> None:
    tail = tail_of(*([said()] for _ in range(10)))
    for mode, whole in SLIDING.items():
        cut = chosen(tail, mode, room=Room(fixed=20, budget=25))
        assert cut is not None
        assert (cut.mode, len(cut.evicted)) == (whole, 10)


def test_a_last_step_larger_than_the_window_s_share_is_kept_if_it_fits() -> None:
    tail = tail_of([said(), said()], answered("a"))
    cut = choose(tail, [1, 1, 50, 50], mode=CompactionMode.SLIDING_WINDOW, fraction=0.3, room=WIDE, summarised=False, awaited=None)
    assert cut_at(cut) == 2


def test_what_would_not_leave_fewer_messages_is_refused() -> None:
    for mode in CompactionMode:
        assert chosen([], mode) is None
        assert chosen(tail_of([said()]), mode) is None
        assert chosen(tail_of([said()], called("a", returned=False)), mode) is None
        assert cut_at(chosen(tail_of([said()]), mode, summarised=True)) == 1
        assert chosen([], mode, summarised=True) is None


# ---- any history


@st.composite
def tails(draw: st.DrawFn) -> list[Message]:
    steps = count()
    part = st.sampled_from(["said", "answered", "called", "apart"])
    parts: list[list[Message]] = []
    for kind in draw(st.lists(part, max_size=12)):
        step = f"step-{next(steps)}"
        match kind:
            case "said":
                parts.append([said()])
            case "answered":
                parts.append(answered(step))
            case "called":
                parts.append(called(step))
            case _:
                whole = called(step)
                parts.append([*whole[:2], said(), *whole[2:]])
    if draw(st.booleans()):
        parts.append(called("waiting", returned=False))
    return tail_of(*parts)


def belongs_together(one: Message, other: Message) -> bool:
    return one.step_id is not None and one.step_id == other.step_id


@given(
    tails(),
    st.sampled_from(CompactionMode),
    st.floats(0.01, 0.99),
    st.integers(0, 300),
    st.booleans(),
    st.sampled_from([None, RUN.id]),
    st.data(),
)
def test_whatever_the_history_a_cut_leaves_fewer_messages_and_tears_nothing_apart(
    tail: list[Message], mode: CompactionMode, fraction: float, budget: int, summarised: bool, awaited: str | None, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=len(tail), max_size=len(tail)))
    room = Room(fixed=10, budget=budget)
    cut = choose(tail, sizes, mode=mode, fraction=fraction, room=room, summarised=summarised, awaited=awaited)
    if cut is None:
        return
    assert [*cut.evicted, *cut.kept] == tail
    assert 1 + len(cut.kept) < summarised + len(tail)
    assert not any(belongs_together(one, other) for one in cut.evicted for other in cut.kept)
    assert not any(one.step_id == "waiting" for one in cut.evicted)
    assert cut.mode in (mode, SLIDING.get(mode))
    if cut.mode in SLIDING:
        assert room.fixed + sum(sizes[len(cut.evicted) :]) <= budget
    if awaited and tail and tail[-1].type is MessageType.USER:
        assert cut.kept[-1:] == tuple(tail[-1:])
