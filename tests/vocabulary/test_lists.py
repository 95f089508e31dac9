"""What is left of several changes of a list for who comes late, and that nothing is missed by it."""

from hypothesis import given
from hypothesis import strategies as st

from tests.db.rows import a_conversation
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind, ListItem, merged

CAUGHT_UP = ListCaughtUp("default")
CREATED, CHANGED, DELETED = ListChangeKind


def change(kind: ListChangeKind, id_: str, version: int) -> ListChange:
    return ListChange.of(kind, a_conversation("agent-1", id=id_, summary=f"version {version}"), version)


@st.composite
def histories(draw: st.DrawFn) -> list[ListItem]:
    """Of three conversations, each created first and deleted last, and doubts anywhere."""
    items: list[ListItem] = []
    versions: dict[str, int] = {}
    gone: set[str] = set()
    for id_ in draw(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=20)):
        if id_ is None:
            items.append(CAUGHT_UP)
        elif id_ not in gone:
            kind = draw(st.sampled_from([CHANGED, CHANGED, DELETED])) if id_ in versions else CREATED
            versions[id_] = versions.get(id_, 0) + 1
            items.append(change(kind, id_, versions[id_]))
            if kind is DELETED:
                gone.add(id_)
    return items


def applied(items: list[ListItem]) -> dict[str, str | None]:
    """A client's list: what is added, replaced and removed."""
    held: dict[str, str | None] = {}
    for item in items:
        if isinstance(item, ListChange):
            held.pop(item.conversation_id, None)
            if item.conversation is not None:
                held[item.conversation_id] = item.conversation.summary
    return held


@given(history=histories())
def test_who_is_told_the_merged_changes_holds_what_the_others_hold(history: list[ListItem]) -> None:
    since = max((place for place, item in enumerate(history) if item == CAUGHT_UP), default=-1)
    told = merged(history)
    assert applied(told) == applied(history[since + 1 :])
    assert (CAUGHT_UP in told) == (CAUGHT_UP in history)
    changes = [item.conversation_id for item in told if isinstance(item, ListChange)]
    assert len(changes) == len(set(changes))


def test_what_is_new_stays_new_and_a_doubt_makes_what_was_before_it_needless() -> None:
    first, second, other = change(CREATED, "a", 1), change(CHANGED, "a", 2), change(CHANGED, "b", 7)
    assert merged([first, other, second]) == [other, change(CREATED, "a", 2)]
    assert merged([first, CAUGHT_UP, second]) == [CAUGHT_UP, second]
    assert merged([first, second, change(DELETED, "a", 3)]) == [change(DELETED, "a", 3)]
