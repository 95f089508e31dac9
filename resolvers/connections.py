"""Connections over keyset pages: checked arguments, opaque cursors, edges. The pages themselves are read through `loaders`.

A cursor is base64url of a JSON array: a digest of the connection it belongs to, then the values of that connection's sort key. It
holds nothing else, so it is the same for a node in every page, and one made for another connection, parent, order or tenant is refused.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, TypeVar

import orjson

from db.paging import Key, Page, Window
from resolvers.arguments import BadUserInput, number
from schema.connections import Connection, Edge, PageArguments, PageInfo
from schema.conversations import ConversationOrder
from schema.enums import ConversationOrderField, OrderDirection
from vocabulary.text import storable

DEFAULT_PAGE_SIZE = 50
NEWEST_FIRST = ConversationOrder(field=ConversationOrderField.CREATED_AT, direction=OrderDirection.DESC)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_MICROSECOND = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LARGEST_INT = 2**31 - 1
_LONGEST_TEXT = 255
_LONGEST_CURSOR = 1024

R = TypeVar("R")
N = TypeVar("N")


class InvalidCursor(Exception):
    """Not a cursor of this connection. `argument`: where it was given."""

    def __init__(self, argument: str) -> None:
        super().__init__(f"{argument} is not a cursor of this connection.")
        self.argument = argument


class KeyPart(Enum):
    """What a value of a sort key is."""

    NUMBER = "NUMBER"
    TEXT = "TEXT"
    TIME = "TIME"
    TIME_OR_NULL = "TIME_OR_NULL"


@dataclass(frozen=True, slots=True)
class Scope:
    """One connection of one parent: cursors of one mean nothing in another."""

    tenant: str
    name: str
    parent: str
    key: tuple[KeyPart, ...]

    def cursor(self, key: Key) -> str:
        values = [_microseconds(value) if isinstance(value, datetime) else value for value in key]
        return base64.urlsafe_b64encode(orjson.dumps([_digest(self), *values])).rstrip(b"=").decode()

    def position(self, cursor: str) -> Key | None:
        """The key that this cursor was made of, None if it was not made here."""
        values = _decoded(cursor)
        if len(values) != len(self.key) + 1 or not all(map(_fits, self.key, values[1:])):
            return None
        key = tuple(map(_value, self.key, values[1:]))
        # Compared as a whole: neither another digest nor another spelling of the same JSON passes.
        return key if self.cursor(key) == cursor else None


@lru_cache(maxsize=4096)
def _digest(scope: Scope) -> str:
    parts = [scope.tenant, scope.name, scope.parent]
    return blake2b(orjson.dumps(parts), digest_size=6).hexdigest()


def _decoded(cursor: str) -> list[Any]:
    if len(cursor) > _LONGEST_CURSOR:
        return []
    try:
        values = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return []
    return values if isinstance(values, list) else []  # pyright: ignore[reportUnknownVariableType]


def _fits(part: KeyPart, value: Any) -> bool:
    match part:
        case KeyPart.NUMBER:
            return type(value) is int and 0 <= value <= _LARGEST_INT
        case KeyPart.TEXT:
            return isinstance(value, str) and len(value) <= _LONGEST_TEXT and storable(value) == value
        case KeyPart.TIME:
            return type(value) is int and 0 <= value <= _LAST_MICROSECOND
        case KeyPart.TIME_OR_NULL:
            return value is None or _fits(KeyPart.TIME, value)


def _value(part: KeyPart, value: Any) -> Any:
    is_time = part in (KeyPart.TIME, KeyPart.TIME_OR_NULL)
    return _EPOCH + value * _MICROSECOND if is_time and value is not None else value


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


# ---- the connections there are


def agents_scope(tenant: str) -> Scope:
    return Scope(tenant, "Query.agents", "", (KeyPart.TIME, KeyPart.TEXT))


def conversations_scope(tenant: str, order: ConversationOrder) -> Scope:
    time = KeyPart.TIME if order.field is ConversationOrderField.CREATED_AT else KeyPart.TIME_OR_NULL
    return Scope(tenant, f"Query.conversations {order.field.value} {order.direction.value}", "", (time, KeyPart.TEXT))


def agent_conversations_scope(tenant: str, agent_id: str) -> Scope:
    return Scope(tenant, "Agent.conversations", agent_id, (KeyPart.TIME, KeyPart.TEXT))


def history_scope(tenant: str, conversation_id: str) -> Scope:
    return Scope(tenant, "Conversation.messages", conversation_id, (KeyPart.NUMBER,))


def runs_scope(tenant: str, conversation_id: str) -> Scope:
    return Scope(tenant, "Conversation.runs", conversation_id, (KeyPart.NUMBER,))


def run_messages_scope(tenant: str, run_id: str) -> Scope:
    return Scope(tenant, "Run.messages", run_id, (KeyPart.NUMBER,))


# ---- from arguments to a window, from a page to a connection


def window_of(page: PageArguments, scope: Scope, *, max_page_size: int) -> Window:
    """Raises BadUserInput, InvalidCursor. A page of 0 is empty, but says what lies around it."""
    if page.first is not None and page.last is not None:
        raise BadUserInput("last", "cannot be given together with first")
    for argument, size in (("first", page.first), ("last", page.last)):
        if size is not None:
            number(argument, size, 0, max_page_size)
    wanted = page.first if page.first is not None else page.last
    return Window(
        size=min(DEFAULT_PAGE_SIZE, max_page_size) if wanted is None else wanted,
        forward=page.last is None,
        after=_position("after", page.after, scope),
        before=_position("before", page.before, scope),
    )


def _position(argument: str, cursor: str | None, scope: Scope) -> Key | None:
    if cursor is None:
        return None
    key = scope.position(cursor)
    if key is None:
        raise InvalidCursor(argument)
    return key


def connection_of(page: Page[R], scope: Scope, node_of: Callable[[R], N], count: Callable[[], Awaitable[int]]) -> Connection[N]:
    edges = [Edge(cursor=scope.cursor(piece.key), node=node_of(piece.item)) for piece in page.slices]
    info = PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=edges[0].cursor if edges else None,
        end_cursor=edges[-1].cursor if edges else None,
    )
    return Connection(edges=edges, page_info=info, count=count)
