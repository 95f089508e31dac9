"""Cursors and the arguments of a page."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.paging import Key, Page, Slice, Window
from resolvers.arguments import BadUserInput
from resolvers.connections import InvalidCursor, KeyPart, Scope, connection_of, history_scope, window_of
from schema.connections import PageArguments

SCOPE = Scope("tenant", "Query.things", "", (KeyPart.TIME_OR_NULL, KeyPart.TEXT, KeyPart.NUMBER))
HISTORY = history_scope("tenant", "conv-1")

times = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 the zone is added
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)
keys = st.tuples(st.none() | times, texts, st.integers(0, 2**31 - 1))


@given(keys)
def test_a_cursor_gives_back_its_key(key: Key) -> None:
    assert SCOPE.position(SCOPE.cursor(key)) == key


@given(keys)
def test_a_cursor_means_nothing_elsewhere(key: Key) -> None:
    cursor = SCOPE.cursor(key)
    for other in (replace(SCOPE, tenant="other"), replace(SCOPE, name="Query.other"), replace(SCOPE, parent="conv-1")):
        assert other.position(cursor) is None


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda b: base64.urlsafe_b64encode(b).decode()))
def test_nothing_else_is_a_cursor(text: str) -> None:
    assert SCOPE.position(text) is None


@given(keys, st.data())
def test_a_cursor_has_one_spelling(key: Key, data: st.DataObject) -> None:
    cursor = SCOPE.cursor(key)
    place = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("ABCabc019-_= \n"))
    changed = cursor[:place] + other + cursor[place + 1 :]
    assert changed == cursor or SCOPE.position(changed) != key


def _forged(*values: object) -> str:
    digest = orjson.loads(base64.urlsafe_b64decode(HISTORY.cursor((1,)) + "=="))[0]
    return base64.urlsafe_b64encode(orjson.dumps([digest, *values])).rstrip(b"=").decode()


@pytest.mark.parametrize("values", [("1",), (1.0,), (True,), (None,), (-1,), (2**31,), (2**63,), (1, 2), (), ([1],)])
def test_a_key_of_the_wrong_kind_is_refused(values: tuple[object, ...]) -> None:
    assert HISTORY.position(_forged(*values)) is None
    assert HISTORY.position(_forged(1)) == (1,)


def _window(**arguments: int | str | None) -> Window:
    return window_of(PageArguments(**arguments), HISTORY, max_page_size=200)  # type: ignore[arg-type]


def test_without_arguments_a_page_is_the_first_fifty() -> None:
    assert _window() == Window(size=50)
    assert window_of(PageArguments(), HISTORY, max_page_size=20).size == 20


def test_arguments_become_a_window() -> None:
    cursor = HISTORY.cursor((7,))
    assert _window(first=200, after=cursor) == Window(size=200, after=(7,))
    assert _window(last=3, before=cursor) == Window(size=3, forward=False, before=(7,))
    assert _window(first=0) == Window(size=0)
    assert _window(first=3, before=cursor) == Window(size=3, before=(7,))
    assert _window(last=3, after=cursor) == Window(size=3, forward=False, after=(7,))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"first": -1}, "first"),
        ({"last": -1}, "last"),
        ({"first": 201}, "first"),
        ({"last": 201}, "last"),
        ({"first": 1, "last": 1}, "last"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(arguments: dict[str, int], named: str) -> None:
    with pytest.raises(BadUserInput) as refused:
        _window(**arguments)
    assert refused.value.argument == named


@pytest.mark.parametrize("argument", ["after", "before"])
def test_foreign_cursors_are_refused_by_name(argument: str) -> None:
    with pytest.raises(InvalidCursor) as refused:
        _window(**{argument: history_scope("tenant", "conv-2").cursor((7,))})
    assert refused.value.argument == argument


async def _two() -> int:
    return 2


async def test_a_page_becomes_edges_with_their_cursors() -> None:
    page = Page((Slice("a", (1,)), Slice("b", (2,))), has_next=True, has_previous=False)
    connection = connection_of(page, HISTORY, str.upper, _two)
    assert [(edge.cursor, edge.node) for edge in connection.edges] == [(HISTORY.cursor((1,)), "A"), (HISTORY.cursor((2,)), "B")]
    assert (connection.page_info.start_cursor, connection.page_info.end_cursor) == (HISTORY.cursor((1,)), HISTORY.cursor((2,)))
    assert (connection.page_info.has_next_page, connection.page_info.has_previous_page) == (True, False)
    assert await connection.count() == 2


def test_an_empty_page_has_no_cursors() -> None:
    page: Page[str] = Page((), has_next=True, has_previous=False)
    info = connection_of(page, HISTORY, str.upper, _two).page_info
    assert (info.start_cursor, info.end_cursor, info.has_next_page) == (None, None, True)
