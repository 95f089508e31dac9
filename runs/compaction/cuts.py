"""Where a context is cut when it is compacted: what the summary will stand for, and what stays beside it. Pure.

A cut falls between steps: a call stays with its return and reasoning with the words that it signed, however far apart they stand. The
step of a call that nobody has answered yet is never cut away. A cut that would not leave fewer messages is no cut.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vocabulary.compaction import CompactionMode
from vocabulary.messages import Message, MessageType, ToolCallBody, ToolReturnBody

_GROWTH = 0.1
_INPUTS = frozenset({MessageType.USER, MessageType.SYSTEM})

SLIDING = {
    CompactionMode.SLIDING_WINDOW: CompactionMode.ALL,
    CompactionMode.SELF_COMPACT_SLIDING_WINDOW: CompactionMode.SELF_COMPACT_ALL,
}
"""The modes that keep what is newest, with the mode that each falls back to when keeping it would not be enough."""


@dataclass(frozen=True, slots=True)
class Cut:
    """`mode`: as it was used. `evicted` and `kept`: the tail, divided."""

    mode: CompactionMode
    evicted: tuple[Message, ...]
    kept: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a sliding window must fit into, in the measure of the sizes. `fixed`: what stands beside the tail, the new summary too."""

    fixed: int
    budget: float


def choose(
    tail: Sequence[Message],
    sizes: Sequence[int],
    *,
    mode: CompactionMode,
    fraction: float,
    room: Room,
    summarised: bool,
    awaited: str | None,
) -> Cut | None:
    """None: no cut would leave fewer messages.

    `summarised`: there is a summary already, which the new one replaces. `awaited`: of this run, what nobody has answered yet is
    kept, too.
    """
    last = len(tail) - (unanswered(tail, awaited) if awaited else 0)
    cuts = [cut for cut in legal(tail) if cut <= last and is_fewer(cut, summarised=summarised)]
    if not cuts:
        return None
    sliding = _sliding(cuts, sizes, fraction, room) if mode in SLIDING else None
    if sliding is not None:
        return _divided(mode, tail, sliding)
    return _divided(SLIDING.get(mode, mode), tail, cuts[-1])


def is_fewer(evicted: int, *, summarised: bool) -> bool:
    """Whether a summary in the place of so many messages, and of the summary before it, leaves fewer than there were."""
    return evicted + summarised > 1


def legal(tail: Sequence[Message]) -> list[int]:
    """Every place at which the tail may be cut, as the number of messages before it."""
    spans = list(_spans(tail))
    return [cut for cut in range(1, len(tail) + 1) if not any(first < cut <= last for first, last in spans)]


def unanswered(tail: Sequence[Message], run_id: str) -> int:
    """How many messages at the end are inputs of a run that nothing was said to yet. An earlier run's will never be answered."""
    count = 0
    while count < len(tail) and tail[-1 - count].type in _INPUTS and tail[-1 - count].run_id == run_id:
        count += 1
    return count


def _spans(tail: Sequence[Message]) -> Iterable[tuple[int, int]]:
    """What belongs together, from its first to its last place; what waits reaches beyond the end."""
    steps: dict[str, tuple[int, int]] = {}
    called: dict[str, int] = {}
    for place, message in enumerate(tail):
        if message.step_id is not None:
            first, _ = steps.get(message.step_id, (place, place))
            steps[message.step_id] = (first, place)
        if message.type is MessageType.TOOL_CALL and isinstance(message.body, ToolCallBody):
            called |= {call.id: steps[message.step_id][0] if message.step_id else place for call in message.body.tool_calls}
        elif isinstance(message.body, ToolReturnBody):
            yield from ((called.pop(item.tool_call_id), place) for item in message.body.tool_returns if item.tool_call_id in called)
    yield from steps.values()
    yield from ((first, len(tail)) for first in called.values())


def _sliding(cuts: Sequence[int], sizes: Sequence[int], fraction: float, room: Room) -> int | None:
    """The first cut that evicts the wanted share, which grows until the rest fits. None: keeping anything would be too much."""
    total = sum(sizes)
    before = [0]
    for size in sizes:
        before.append(before[-1] + size)
    keeping = [cut for cut in cuts if cut < len(sizes)]
    fitting = [cut for cut in keeping if room.fixed + total - before[cut] <= room.budget]
    share = fraction
    while share < 1:
        found = next((cut for cut in keeping if before[cut] >= share * total), None)
        if found is None:
            break
        if found in fitting:
            return found
        share += _GROWTH
    return fitting[-1] if fitting else None


def _divided(mode: CompactionMode, tail: Sequence[Message], cut: int) -> Cut:
    return Cut(mode, tuple(tail[:cut]), tuple(tail[cut:]))
