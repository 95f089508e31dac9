"""Checks of single arguments. What passes is within its documented range and can be stored; what does not is refused by name."""

from collections.abc import Iterable
from typing import TypeVar

from vocabulary.ids import Noun, noun_of
from vocabulary.text import storable

N = TypeVar("N", int, float)

MAX_NAME = 255
MAX_TEXT = 1_000_000
MAX_DESCRIPTION = 10_000

_MAX_ID = 64


class BadUserInput(Exception):
    """`argument` is a path such as `input.messages[0].text`."""

    def __init__(self, argument: str, complaint: str) -> None:
        super().__init__(f"{argument} {complaint}.")
        self.argument = argument


def text(argument: str, value: str, *, at_most: int, at_least: int = 1) -> str:
    """Its length in characters lies between the two; made storable."""
    if not at_least <= len(value) <= at_most:
        raise BadUserInput(argument, f"must have {at_least} to {at_most} characters, not {len(value)}")
    return storable(value)


def optional_text(argument: str, value: str | None, *, at_most: int = MAX_NAME, at_least: int = 1) -> str | None:
    return None if value is None else text(argument, value, at_most=at_most, at_least=at_least)


def number(argument: str, value: N, low: N, high: N) -> N:
    if not low <= value <= high:
        raise BadUserInput(argument, f"must be between {low} and {high}, not {value}")
    return value


def optional_number(argument: str, value: N | None, low: N, high: N) -> N | None:
    return None if value is None else number(argument, value, low, high)


def amount(argument: str, held: int, what: str, low: int, high: int) -> int:
    """How many items or characters something holds."""
    if not low <= held <= high:
        raise BadUserInput(argument, f"must hold {low} to {high} {what}, not {held}")
    return held


def unique(given: Iterable[tuple[str, str]]) -> None:
    """Of pairs of an argument and its value no value may come twice."""
    seen: set[str] = set()
    for argument, value in given:
        if value in seen:
            raise BadUserInput(argument, "is there twice")
        seen.add(value)


def position(argument: str, value: int | None) -> int | None:
    """A place in a conversation's log."""
    if value is not None and value < 0:
        raise BadUserInput(argument, f"must not be negative, as {value} is")
    return value


def well_formed(identifier: str, noun: Noun) -> bool:
    """Whether the database needs to be asked at all. A malformed id is no different from an unknown one."""
    return noun_of(identifier) is noun and len(identifier) <= _MAX_ID and identifier.isascii() and identifier.isprintable()
