"""Connections after the Relay cursor specification: pages, edges, and the four arguments that ask for a page."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import strawberry
from strawberry import UNSET

T = TypeVar("T")


@strawberry.type(description="Where a page lies in its connection.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether more items follow this page.")
    has_previous_page: bool = strawberry.field(description="Whether items precede this page.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first item; null when the page is empty.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last item; null when the page is empty.")


@strawberry.type(description="An item of a connection and its place there.")
class Edge(Generic[T]):
    cursor: str = strawberry.field(description="Opaque and stable: the same for a node in every page of this connection.")
    node: T = strawberry.field(description="The item itself.")


@strawberry.type(description="One page of a list.")
class Connection(Generic[T]):
    edges: list[Edge[T]] = strawberry.field(description="The items of this page with their cursors.")
    page_info: PageInfo = strawberry.field(description="Where this page lies in the list.")
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="The items of this page.")
    def nodes(self) -> list[T]:
        return [edge.node for edge in self.edges]

    @strawberry.field(description="How many items the whole list has; counted only when asked for.")
    async def total_count(self) -> int:
        return await self.count()


First = Annotated[int | None, strawberry.argument(description="So many items from the start, or after `after`; not together with `last`.")]
After = Annotated[str | None, strawberry.argument(description="Only items after this cursor.")]
Last = Annotated[int | None, strawberry.argument(description="So many items from the end, or before `before`; not together with `first`.")]
Before = Annotated[str | None, strawberry.argument(description="Only items before this cursor.")]


@dataclass(frozen=True, slots=True)
class PageArguments:
    """As a client gave them, unchecked; absent and null are the same."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    @classmethod
    def given(cls, first: int | None, after: str | None, last: int | None, before: str | None) -> "PageArguments":
        return cls(_given(first), _given(after), _given(last), _given(before))


def _given(value: T | None) -> T | None:
    return None if value is UNSET else value
