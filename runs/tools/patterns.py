"""Regular expressions of JSON schemas, as ECMAScript writes them, matched without the risk that one never ends.

What a linear engine can match, it matches; the larger the pattern, the shorter the text has to be. With lookaround or back-references
only backtracking can, so there the steps have a limit, too. Python's own engine has no such limits, and cannot be interrupted.
"""

from dataclasses import dataclass
from functools import lru_cache

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, RegexOptions, ValidationError, ValidationErrorKind

from runs.tools.allowance import TooMuchWork, go_on

_MOST_STEPS = 10_000  # back, of a match


class NoPattern(Exception):
    """It is malformed, or too large, or written in what ECMAScript does not know."""


@dataclass(frozen=True, slots=True)
class _Engine:
    """`longest_text`: in characters; a match costs about the size of the pattern times that of the text."""

    options: RegexOptions | FancyRegexOptions
    longest_text: int


@dataclass(frozen=True, slots=True)
class _Compiled:
    validator: Draft202012Validator
    longest_text: int


_ENGINES = (
    _Engine(RegexOptions(size_limit=1 << 18), 100_000),
    _Engine(RegexOptions(size_limit=10 << 20), 5_000),
    _Engine(FancyRegexOptions(backtrack_limit=_MOST_STEPS, size_limit=16 << 20), 1_000),
)


def matches(pattern: str, text: str) -> bool:
    """Somewhere in the text. Raises NoPattern, TooMuchWork."""
    go_on()
    compiled = compile_(pattern)
    if len(text) > compiled.longest_text:
        raise TooMuchWork
    try:
        compiled.validator.validate(text)
    except ValidationError as fault:
        if isinstance(fault.kind, ValidationErrorKind.BacktrackLimitExceeded):
            raise TooMuchWork from None
        return False
    return True


@lru_cache(maxsize=64)
def compile_(pattern: str) -> _Compiled:
    for engine in _ENGINES:
        try:
            return _Compiled(Draft202012Validator({"pattern": pattern}, pattern_options=engine.options), engine.longest_text)
        except ValidationError:
            continue
    raise NoPattern(pattern)
