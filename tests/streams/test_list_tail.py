"""The tail of a tenant's list: late announcements are skipped, missing ones are noticed, and it stays small."""

from itertools import permutations

from streams.list_tail import ListTail
from tests.db.rows import a_conversation
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind, ListVersion

CAUGHT_UP = ListCaughtUp("default")


def changed(id_: str, version: int) -> ListChange:
    return ListChange.of(ListChangeKind.CHANGED, a_conversation("agent-1", id=id_), version)


def stored(id_: str, version: int) -> ListVersion:
    return ListVersion("default", id_, version)


def test_in_whatever_order_announcements_arrive_the_newest_is_told_last() -> None:
    for order in permutations([1, 2, 3, 3]):
        tail = ListTail("default", size=10)
        for version in order:
            tail.offer(changed("a", version), now=0.0)
        assert tail.after(0) == [changed("a", 3)]
        assert not tail.misses([stored("a", 3)])


def test_what_is_stored_and_was_not_heard_of_is_missed_until_it_is_learnt() -> None:
    tail = ListTail("default", size=10)
    tail.offer(changed("a", 2), now=0.0)
    assert not tail.misses([stored("a", 2), stored("b", 0)])
    assert tail.misses([stored("a", 3)])
    assert tail.misses([stored("b", 1)])
    tail.learn([stored("a", 1), stored("b", 1)], now=0.0)
    assert not tail.misses([stored("a", 2), stored("b", 1)])
    assert not tail.offer(changed("b", 1), now=0.0), "whoever was caught up after it was read has it"


def test_who_falls_off_the_tail_is_caught_up_and_stands_at_its_end() -> None:
    tail = ListTail("default", size=2)
    for id_ in "abc":
        tail.offer(changed(id_, 1), now=0.0)
    assert tail.after(0) == [CAUGHT_UP]
    assert tail.after(1) == [changed("b", 1), changed("c", 1)]
    assert tail.after(tail.end) == []


def test_what_nobody_compares_any_more_is_forgotten() -> None:
    tail = ListTail("default", size=2)
    tail.offer(changed("a", 1), now=10.0)
    tail.learn([stored("b", 1)], now=20.0)
    tail.forget(before=15.0)
    assert tail.misses([stored("a", 1)])
    assert not tail.misses([stored("b", 1)])
