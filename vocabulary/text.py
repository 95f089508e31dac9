"""Text as both databases can hold it: no NUL (PostgreSQL refuses it), no half of a surrogate pair (not UTF-8).

Applied once, where text comes in from outside: the adapters of `llm` and the API's inputs. What arrives in pieces goes
through a `Joiner`, because a provider may cut between the two halves of one character.
"""

import re
import unicodedata
from collections.abc import Collection
from math import isfinite
from typing import Any, cast

import orjson

DEEPEST_JSON = 64
"""Levels of objects and lists in somebody else's JSON: deeper ones are read by some libraries and refused by others."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_unstorable = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> str:
    """Halves that belong together are joined; halves without the other, and NUL, become U+FFFD."""
    if not _unstorable.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", REPLACEMENT)


def storable_json(value: Any) -> Any:
    """A JSON value with all its strings made storable, keys too."""
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable_json(key): storable_json(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [storable_json(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def parsed(text: str) -> Any:
    """The JSON value that a model has written. Raises ValueError, which says what is wrong with it."""
    value = orjson.loads(text)
    if is_too_deep(value):
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")
    return value


def is_too_deep(value: object, levels: int = DEEPEST_JSON) -> bool:
    if not isinstance(value, dict | list):
        return False
    inside = cast("Collection[object]", value.values() if isinstance(value, dict) else value)
    return levels == 0 or any(is_too_deep(inner, levels - 1) for inner in inside)


def has_storable_numbers(value: object) -> bool:
    """Finite ones, and integers of at most 64 bits: others are refused by the writer of JSON, or silently written as null."""
    match value:
        case dict() | list():
            inside = cast("Collection[object]", value.values() if isinstance(value, dict) else value)
            return all(map(has_storable_numbers, inside))
        case int():
            return -(1 << 63) <= value < 1 << 64
        case float():
            return isfinite(value)
        case _:
            return True


def folded(text: str) -> str:
    """What a search compares: without regard to case, in any script, or to how an accent was typed. Ours, so that no database's
    locale has a say in it.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


class Joiner:
    """Makes one text storable piece by piece: what `push` and `flush` return, put together, is `storable` of the whole."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """As much as can be told now; "" when the piece ends in a first half and holds nothing else."""
        text = self._held + piece
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return storable(text.removesuffix(self._held))

    def flush(self) -> str:
        """The rest, once no more can come."""
        rest, self._held = storable(self._held), ""
        return rest


def utf16_length(text: str) -> int:
    """Code units as JavaScript counts them: what a delta's offset is measured in."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
