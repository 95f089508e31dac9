"""The keywords of JSON Schema 2020-12, each within the allowance: a keyword asks before it is applied, so whatever a schema and its
arguments do to each other ends in time. That asks for keywords that are about linear by themselves; those of the library that are not
are replaced here.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, cast

import attrs
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend  # pyright: ignore[reportUnknownVariableType]

from runs.tools.allowance import TooMuchWork, go_on
from runs.tools.patterns import matches

Keyword = Callable[[Any, Any, Any, Any], "Iterator[ValidationError] | None"]

_MOST_UNEVALUATED = 100

_library = cast("Mapping[str, Keyword]", Draft202012Validator.VALIDATORS)


def _pattern(_validator: Validator, pattern: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: dict[str, object], instance: object, _schema: object) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, schema in patterns.items():
        for name, value in cast("dict[str, object]", instance).items():
            if matches(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, additional: object, instance: object, schema: dict[str, Any]) -> Iterator[ValidationError]:
    """What a pattern covers is taken away first, so that the library has no patterns to match."""
    patterns = schema.get("patternProperties", {})
    if patterns and isinstance(instance, dict):
        named = cast("dict[str, object]", instance)
        instance = {name: value for name, value in named.items() if not any(matches(pattern, name) for pattern in patterns)}
        schema = {keyword: value for keyword, value in schema.items() if keyword != "patternProperties"}
    yield from _library["additionalProperties"](validator, additional, instance, schema) or ()


def _unique_items(_validator: Validator, unique: object, instance: object, _schema: object) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list):
        items = cast("list[object]", instance)
        if len({_comparable(item) for item in items}) < len(items):
            yield ValidationError(f"{items!r} has non-unique elements")


def _comparable(value: object) -> Hashable:
    """Equal where JSON Schema says so: 1 is 1.0, but not true."""
    match value:
        case bool():
            return bool, value
        case dict():
            return frozenset((name, _comparable(inner)) for name, inner in cast("dict[str, object]", value).items())
        case list():
            return tuple(map(_comparable, cast("list[object]", value)))
        case _:
            return cast(Hashable, value)


def _unevaluated(keyword: str) -> Keyword:
    """The library's grows with the square of what it looks at."""

    def bounded(validator: Any, value: object, instance: object, schema: object) -> Iterator[ValidationError] | None:
        if isinstance(instance, dict | list) and len(cast("list[object]", instance)) > _MOST_UNEVALUATED:
            raise TooMuchWork
        return _library[keyword](validator, value, instance, schema)

    return bounded


def _metered(check: Keyword) -> Keyword:
    def metered(validator: Any, value: object, instance: object, schema: object) -> Iterator[ValidationError] | None:
        go_on()
        return check(validator, value, instance, schema)

    return metered


_replaced: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "unevaluatedItems": _unevaluated("unevaluatedItems"),
    "unevaluatedProperties": _unevaluated("unevaluatedProperties"),
}

_keywords = {name: _metered(check) for name, check in {**_library, **_replaced}.items()}
Metered = cast("type[Validator]", extend(Draft202012Validator, _keywords))

# The library would leave a part with a `$schema` to that draft's own validator, which asks for no allowance.
Metered.evolve = attrs.evolve  # pyright: ignore[reportAttributeAccessIssue]
