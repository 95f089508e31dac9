"""Regular expressions of JSON schemas, as ECMAScript writes them, matched without the risk that one never ends.

What a linear engine can match, it matches. With lookaround or back-references only backtracking can, so there both its steps and the
length of the text have a limit: a step may cost the whole text. Python's own engine has no such limits, and cannot be interrupted.
"""

from dataclasses import dataclass
from functools import lru_cache

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, RegexOptions, ValidationError, ValidationErrorKind

from runs.tools.allowance import TooMuchWork, go_on

_LARGEST = 1 << 18  # bytes, of one that is compiled
_MOST_STEPS = 10_000
_LONGEST_TEXT = 4096  # that is backtracked over


class NoPattern(Exception):
    """It is malformed, or too large, or written in what ECMAScript does not know."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    validator: Draft202012Validator
    longest_text: int | None = None


def matches(pattern: str, text: str) -> bool:
    """Somewhere in the text. Raises NoPattern, TooMuchWork."""
    go_on()
    compiled = compile_(pattern)
    if compiled.longest_text is not None and len(text) > compiled.longest_text:
        raise TooMuchWork
    try:
        compiled.validator.validate(text)
    except ValidationError as fault:
        if isinstance(fault.kind, ValidationErrorKind.BacktrackLimitExceeded):
            raise TooMuchWork from None
        return False
    return True


@lru_cache(maxsize=256)
def compile_(pattern: str) -> _Compiled:
    schema = {"pattern": pattern}
    try:
        linear = RegexOptions(size_limit=_LARGEST, dfa_size_limit=_LARGEST)
        return _Compiled(Draft202012Validator(schema, pattern_options=linear))
    except ValidationError:
        return _Compiled(_backtracking(schema), _LONGEST_TEXT)


def _backtracking(schema: dict[str, str]) -> Draft202012Validator:
    limited = FancyRegexOptions(backtrack_limit=_MOST_STEPS, size_limit=_LARGEST, dfa_size_limit=_LARGEST)
    try:
        return Draft202012Validator(schema, pattern_options=limited)
    except ValidationError:
        raise NoPattern(schema["pattern"]) from None
