"""The merge, driven through every interleaving of appending, announcing, joining and filling that a small log allows.

The world below has the steps of `hub.py` and `reader.py` in their order, without their I/O: what can happen next is a move, and every
sequence of moves is tried (worlds that came out equal are tried once). An announcement may arrive at once, late, out of order, twice
or never; whatever arrives before the process listens is not heard.
"""

from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass

import pytest

from streams.tail import Tail
from tests.db.rows import NOON
from vocabulary.events import Event

ATTACH_THEN_READ = ("attach", "see head", "make tail", "read", "give")
READ_THEN_LISTEN = ("see head", "make tail", "read", "give", "attach")
"""The counter-example: what is announced between the read and the attachment is heard by nobody."""

EVENTS = [Event("conv-1", sequence, NOON, None, None) for sequence in range(12)]


def event(sequence: int) -> Event:
    return EVENTS[sequence]


def numbers(tail: Tail, cursor: int) -> list[int] | None:
    found = tail.after(cursor)
    return None if found is None else [event.sequence for event in found]


@dataclass
class World:
    """One conversation, one process, one subscriber that stands at 0. The log holds one event before anything happens."""

    steps: tuple[str, ...]
    to_append: int
    tail_size: int
    faulty: bool
    head: int = 1
    on_the_way: tuple[tuple[int, int], ...] = ()  # announced, not arrived: number, and how often it may still arrive
    seen_head: int = 0
    attached: bool = False
    tail: Tail | None = None
    page: tuple[int, ...] = ()
    filling: tuple[int, ...] | None = None
    live: bool = False
    position: int = 0
    got: tuple[int, ...] = ()
    trace: tuple[str, ...] = ()

    def moves(self) -> list[str]:
        found = ["append"] if self.to_append else []
        for number, _ in self.on_the_way:
            found += [f"hear {number}", f"lose {number}"] if self.faulty else [f"hear {number}"]
        if self.steps:
            found.append(self.steps[0])
        if self.filling is not None:
            found.append("fill")
        elif self.tail is not None and self.tail.incomplete:
            found.append("read hole")
        if self.live and self._waiting() != []:
            found.append("consume")
        return found

    def after(self, move: str) -> "World":
        world = copy(self)
        world.tail = deepcopy(self.tail, {id(known): known for known in EVENTS})
        world.trace += (move,)
        name, _, number = move.partition(" ")
        if name in ("hear", "lose"):
            world._arrive(int(number), heard=name == "hear")
            return world
        if world.steps and move == world.steps[0]:
            world.steps = world.steps[1:]
        getattr(world, f"_{move.replace(' ', '_')}")()
        return world

    def _append(self) -> None:
        self.head += 1
        self.to_append -= 1
        self.on_the_way += ((self.head, 2 if self.faulty else 1),)

    def _arrive(self, number: int, *, heard: bool) -> None:
        left = dict(self.on_the_way)
        left[number] -= 1 if heard else left[number]
        self.on_the_way = tuple((n, times) for n, times in left.items() if times)
        # Between the head and the tail that begins at it nothing is heard: the page that is read after it has it.
        if heard and self.attached and self.tail is not None:
            self.tail.offer(event(number))

    def _attach(self) -> None:
        self.attached = True
        self.live = not self.steps

    def _see_head(self) -> None:
        self.seen_head = self.head

    def _make_tail(self) -> None:
        self.tail = Tail(self.seen_head, size=self.tail_size)

    def _read(self) -> None:
        self.page = tuple(range(self.position + 1, self.head + 1))

    def _give(self) -> None:
        self._take(self.page)
        self.live = not self.steps

    def _read_hole(self) -> None:
        assert self.tail is not None
        self.filling = tuple(range(self.tail.position + 1, self.head + 1))

    def _fill(self) -> None:
        assert self.tail is not None
        assert self.filling is not None
        self.tail.fill([event(number) for number in self.filling], self.filling[-1] if self.filling else 0)
        self.filling = None

    def _consume(self) -> None:
        """One turn of the subscriber's loop: what the tail has for it, or the log when it has fallen off."""
        known = self._waiting()
        self._take(tuple(range(self.position + 1, self.head + 1)) if known is None else tuple(known))

    def _waiting(self) -> list[int] | None:
        assert self.tail is not None
        return numbers(self.tail, self.position)

    def _take(self, numbers: tuple[int, ...]) -> None:
        assert numbers == tuple(range(self.position + 1, self.position + 1 + len(numbers))), (numbers, self.trace)
        self.got += numbers
        self.position = self.got[-1] if self.got else 0

    def check_head(self) -> None:
        assert self.tail is not None
        self.tail.hear_of(self.head)

    def key(self) -> str:
        """What tells two worlds apart: everything but how they came to be."""
        tail = self.tail and vars(self.tail) | {"_events": numbers(self.tail, self.tail.floor)}
        return repr(vars(self) | {"trace": None, "tail": tail})


def ends(world: World) -> Iterator[World]:
    """The worlds in which nothing can happen any more, one for each state that any interleaving leads to."""
    tried = {world.key()}
    open_worlds = [world]
    while open_worlds:
        current = open_worlds.pop()
        moves = current.moves()
        if not moves:
            yield current
        for following in map(current.after, moves):
            if following.key() not in tried:
                tried.add(following.key())
                open_worlds.append(following)


def everything(world: World) -> tuple[int, ...]:
    return tuple(range(1, world.head + 1))


@pytest.mark.parametrize("tail_size", [1, 2, 8])
@pytest.mark.parametrize("appended", [1, 2, 3])
def test_whatever_the_interleaving_nothing_is_lost_nothing_doubled_and_the_order_kept(appended: int, tail_size: int) -> None:
    worlds = list(ends(World(ATTACH_THEN_READ, appended, tail_size, faulty=True)))
    assert len(worlds) > appended
    for world in worlds:
        world.check_head()
        for settled in ends(world):
            assert settled.got == everything(settled), settled.trace


@pytest.mark.parametrize("appended", [1, 2, 3])
def test_when_no_announcement_is_lost_the_head_check_is_not_needed(appended: int) -> None:
    for world in ends(World(ATTACH_THEN_READ, appended, tail_size=8, faulty=False)):
        assert world.got == everything(world), world.trace


@pytest.mark.parametrize("appended", [1, 2, 3])
def test_only_a_lost_end_needs_the_head_check(appended: int) -> None:
    """What was lost with something after it is found by the hole that it leaves."""
    behind = [world for world in ends(World(ATTACH_THEN_READ, appended, tail_size=8, faulty=True)) if world.got != everything(world)]
    assert behind
    assert all(f"lose {world.head}" in world.trace for world in behind)
    assert all(f"hear {world.head}" not in world.trace[world.trace.index("make tail") :] for world in behind)


def test_to_read_first_and_listen_then_loses_what_falls_between() -> None:
    worlds = list(ends(World(READ_THEN_LISTEN, 2, tail_size=8, faulty=False)))
    assert any(world.got != everything(world) for world in worlds)
    assert any(world.got == everything(world) for world in worlds)


# ---- the tail by itself


def test_the_next_number_is_taken_and_what_is_known_is_passed_over() -> None:
    tail = Tail(5, size=8)
    assert [tail.offer(event(n)) for n in (4, 5, 6, 6, 7)] == [False, False, True, False, True]
    assert not tail.incomplete
    assert numbers(tail, 5) == [6, 7]
    assert numbers(tail, 6) == [7]
    assert numbers(tail, 7) == []


def test_a_number_above_the_next_shows_a_hole() -> None:
    tail = Tail(5, size=8)
    assert not tail.offer(event(7))
    assert tail.incomplete
    tail.fill([event(6), event(7)], 7)
    assert not tail.incomplete
    assert numbers(tail, 5) == [6, 7]


def test_a_hole_may_hold_numbers_that_were_pruned() -> None:
    tail = Tail(5, size=8)
    tail.offer(event(9))
    tail.fill([event(7)], 9)
    assert (tail.position, tail.incomplete) == (9, False)
    assert numbers(tail, 5) == [7]
    assert tail.offer(event(10))
    assert numbers(tail, 5) == [7, 10]


def test_a_fill_that_comes_late_takes_nothing_twice() -> None:
    tail = Tail(5, size=8)
    tail.offer(event(7))
    tail.offer(event(6))
    tail.offer(event(7))
    tail.offer(event(8))
    tail.fill([event(6), event(7)], 7)
    assert numbers(tail, 5) == [6, 7, 8]
    assert tail.position == 8


def test_a_cursor_before_the_floor_is_told_to_read_the_log() -> None:
    tail = Tail(5, size=2)
    for n in (6, 7, 8, 9):
        tail.offer(event(n))
    assert numbers(tail, 7) == [8, 9]
    assert numbers(tail, 6) is None
    assert numbers(tail, 0) is None


def test_what_was_before_the_tail_began_is_not_known_to_it() -> None:
    assert Tail(5, size=8).after(4) is None
    assert Tail(5, size=8).after(5) == []
    assert Tail(5, size=8).after(9) == []


def test_a_heard_number_at_or_below_the_position_leaves_no_hole() -> None:
    tail = Tail(5, size=8)
    tail.hear_of(5)
    tail.hear_of(3)
    assert not tail.incomplete
    tail.hear_of(6)
    assert tail.incomplete
