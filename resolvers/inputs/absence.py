"""Absent and null: where a field keeps them apart it has UNSET as its default, and here they are told apart."""

from collections.abc import Callable
from typing import TypeVar

from strawberry import UNSET

from resolvers.arguments import BadUserInput
from vocabulary.changes import KEPT, Kept

T = TypeVar("T")
R = TypeVar("R")


def or_null(value: T | None) -> T | None:
    """For what has no former value: absent means what null does."""
    return None if value is UNSET else value


def or_kept(value: T, check: Callable[[T], R]) -> R | Kept:
    """For what has one: absent keeps it; anything else, null too, is for `check` to understand."""
    return KEPT if value is UNSET else check(value)


def not_null(argument: str, value: T | None) -> T:
    """For what cannot be cleared."""
    if value is None:
        raise BadUserInput(argument, "cannot be null: it may be changed, but not cleared")
    return value
