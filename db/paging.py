"""Keyset paging, both ways, for one parent or for many in one statement.

A page walks the values of its order's columns, never offsets, so rows that come or go meanwhile neither shift nor repeat a page.
What a cursor looks like to a client is not told here (`resolvers/connections.py`): here a position is the tuple of key values.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Row, Select, bindparam, exists, false, literal, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from db.dialect import batch, time_or_last
from db.types import Identifier, Json

T = TypeVar("T")
Key = tuple[Any, ...]  # the values of an order's columns for one row


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """Nulls come last in either direction; only times can be null."""

    column: ColumnElement[Any]
    nullable: bool = False

    def compared(self, *, descending: bool) -> ColumnElement[Any]:
        return time_or_last(self.column, descending=descending) if self.nullable else self.column

    def bound(self, value: Any, *, descending: bool) -> ColumnElement[Any]:
        given = literal(value, self.column.type)
        return time_or_last(given, descending=descending) if self.nullable and value is None else given


@dataclass(frozen=True, slots=True)
class KeysetOrder:
    """The last column is unique among the rows, so the order is total. All columns have one direction: that is what an index can walk,
    and one comparison of whole keys is a range of it.
    """

    columns: tuple[KeyColumn, ...]
    descending: bool = False

    def beyond(self, key: Key, *, forward: bool) -> ColumnElement[bool]:
        """Rows strictly after (forward) or strictly before the key."""
        rows, bounds = self._sides(key)
        rising = forward != self.descending
        return (rows > bounds if rising else rows < bounds) & self._from(key[0], rising=rising)

    def up_to(self, key: Key, *, forward: bool) -> ColumnElement[bool]:
        """All others."""
        rows, bounds = self._sides(key)
        rising = forward == self.descending
        return (rows >= bounds if rising else rows <= bounds) & self._from(key[0], rising=rising)

    def _from(self, value: Any, *, rising: bool) -> ColumnElement[bool]:
        """Says nothing new; but SQLite takes no range of an index from a comparison of keys that begin with an expression."""
        column = self.columns[0]
        if not column.nullable:
            return true()
        first, bound = column.compared(descending=self.descending), column.bound(value, descending=self.descending)
        return first >= bound if rising else first <= bound

    def _sides(self, key: Key) -> tuple[Any, Any]:
        rows = tuple_(*(column.compared(descending=self.descending) for column in self.columns))
        return rows, tuple_(*(c.bound(value, descending=self.descending) for c, value in zip(self.columns, key, strict=True)))

    def sorting(self, *, forward: bool) -> list[ColumnElement[Any]]:
        compared = [column.compared(descending=self.descending) for column in self.columns]
        return [column.asc() if forward != self.descending else column.desc() for column in compared]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """`size` rows from the start or after `after` (forward), or those that end at the end or before `before` (backward)."""

    size: int
    forward: bool = True
    after: Key | None = None
    before: Key | None = None


@dataclass(frozen=True, slots=True)
class Slice(Generic[T]):
    item: T
    key: Key


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """In the order of the connection, whichever way it was read."""

    slices: tuple[Slice[T], ...]
    has_next: bool
    has_previous: bool


async def fetch_page(
    connection: AsyncConnection, rows: Select[Any], order: KeysetOrder, window: Window, item_of: Callable[[Row[Any]], T]
) -> Page[T]:
    return _page((await connection.execute(_one(rows, order, window))).all(), order, window, item_of)


async def fetch_pages(
    connection: AsyncConnection,
    rows: Select[Any],
    parent: Column[str],
    parents: Collection[str],
    order: KeysetOrder,
    window: Window,
    item_of: Callable[[Row[Any]], T],
) -> dict[str, Page[T]]:
    """By parent, the same window of the rows whose `parent` column names it; one statement, the same for any number of parents.

    Several parents share a window without cursors: a cursor belongs to one of them.
    """
    if len(parents) == 1 or window.after is not None or window.before is not None:
        return {id_: await fetch_page(connection, rows.where(parent == id_), order, window, item_of) for id_ in parents}
    found: dict[str, list[Row[Any]]] = {id_: [] for id_ in parents}
    statement = _many(rows, parent, order, window, lateral=connection.dialect.name == "postgresql")
    for row in await connection.execute(statement, {"parents": [[id_] for id_ in parents]}):
        found[row.parent_].append(row)
    return {id_: _page(own, order, window, item_of) for id_, own in found.items()}


def _one(rows: Select[Any], order: KeysetOrder, window: Window) -> Select[Any]:
    """A page and one row more, each with whether any row lies on the far side of the cursor it started from, and of the other one.

    Those flags hang on a row of their own, which is there also when the page is empty.
    """
    page = _keyed(rows, order)
    if window.after is not None:
        page = page.where(order.beyond(window.after, forward=True))
    if window.before is not None:
        page = page.where(order.beyond(window.before, forward=False))
    page = page.order_by(*order.sorting(forward=window.forward)).limit(window.size + 1)
    before, after = _any_up_to(rows, order, window.after, forward=True), _any_up_to(rows, order, window.before, forward=False)
    behind, ahead = (before, after) if window.forward else (after, before)
    flags, body = select(behind.label("behind_"), ahead.label("ahead_")).subquery(), page.subquery()
    return select(flags.c.behind_, flags.c.ahead_, *body.c).select_from(flags.outerjoin(body, true()))


def _any_up_to(rows: Select[Any], order: KeysetOrder, key: Key | None, *, forward: bool) -> ColumnElement[bool]:
    return false() if key is None else exists(rows.where(order.up_to(key, forward=forward)))


def _many(rows: Select[Any], parent: Column[str], order: KeysetOrder, window: Window, *, lateral: bool) -> Select[Any]:
    """The first or last rows of each parent. Both forms make one short index scan per parent, which a window function would not."""
    asked = batch(bindparam("parents", type_=Json), {"parent_": Identifier}, name="asked")
    page = _keyed(rows, order).add_columns(false().label("behind_"), false().label("ahead_")).where(parent == asked.c.parent_)
    ends = page.order_by(*order.sorting(forward=window.forward)).limit(window.size + 1).correlate(asked)
    if lateral:
        body = ends.lateral()
        return select(asked.c.parent_, *body.c).select_from(asked.join(body, true()))
    identity = parent.table.c.id
    return page.add_columns(asked.c.parent_).where(identity.in_(ends.with_only_columns(identity)))


def _keyed(rows: Select[Any], order: KeysetOrder) -> Select[Any]:
    return rows.add_columns(literal(1).label("present_"), *(c.column.label(f"key_{i}_") for i, c in enumerate(order.columns)))


def _page(rows: Sequence[Row[Any]], order: KeysetOrder, window: Window, item_of: Callable[[Row[Any]], T]) -> Page[T]:
    # Sorted here: the order of a joined or correlated subquery is nobody's promise.
    behind, ahead = bool(rows and rows[0].behind_), bool(rows and rows[0].ahead_)
    slices = [Slice(item_of(row), tuple(getattr(row, f"key_{i}_") for i in range(len(order.columns)))) for row in rows if row.present_]
    slices.sort(key=lambda s: [_sortable(value, last=not order.descending) for value in s.key], reverse=order.descending)
    more = len(slices) > window.size
    if more:
        slices = slices[:-1] if window.forward else slices[1:]
    ahead = more or ahead
    return Page(tuple(slices), has_next=ahead if window.forward else behind, has_previous=behind if window.forward else ahead)


def _sortable(value: Any, *, last: bool) -> tuple[bool, Any]:
    return ((value is None) == last, 0 if value is None else value)
