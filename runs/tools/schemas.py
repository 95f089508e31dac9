"""JSON schemas of tools' arguments: whether a schema is fit for use, and whether arguments fit theirs.

Schemas come from clients and tool servers, and arguments from models, so either may be made to cost as much as it can: all checking is
within an allowance. A schema that needs more is refused, and of arguments that need more the model is told that they were not checked.
"""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

import jsonschema_rs
from jsonschema.exceptions import (
    ValidationError,
    best_match,  # pyright: ignore[reportUnknownVariableType]
    relevance,
)
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from runs.tools.allowance import TooMuchWork, allowance, go_on
from runs.tools.keywords import Metered
from runs.tools.patterns import NoPattern, compile_
from vocabulary.text import DEEPEST_JSON, has_storable_numbers, is_too_deep, parsed

Schema = dict[str, Any]

_LONGEST_COMPLAINT = 500
_MOST_PARTS_OF_A_VALUE = 1000

_draft = jsonschema_rs.Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"})


# ---- arguments


def complaint(parameters: Schema, arguments_text: str) -> str | None:
    """Why these arguments do not fit their schema, in words for the model; None: they do."""
    try:
        arguments = parsed(arguments_text)
    except ValueError as error:
        return f"The arguments cannot be read as JSON: {error}."
    if not isinstance(arguments, dict):
        return "The arguments are not a JSON object."
    try:
        with allowance():
            faults = _faults(parameters, cast(dict[str, Any], arguments))
    except Unresolvable as missing:
        return f"The tool's parameters cannot be checked: {missing}"
    except NoPattern as pattern:
        return _cut(f"The tool's parameters cannot be checked: {str(pattern)!r} is no pattern.")
    except RecursionError:
        return "The tool's parameters cannot be checked: they refer to themselves without end."
    except TooMuchWork:
        return "The arguments cannot be checked: comparing them with the tool's parameters takes too much work."
    except ValueError as error:
        return f"The tool's parameters cannot be checked: {error}."
    return _cut(f"The arguments are not what the tool takes: {'; '.join(map(_told, faults))}") if faults else None


def _faults(parameters: Schema, arguments: dict[str, Any]) -> list[ValidationError]:
    """The worst first. With a registry of nothing: a schema that names another place is not followed there."""
    found = sorted(Metered(parameters, registry=Registry()).iter_errors(arguments), key=relevance, reverse=True)
    return [cast(ValidationError, best_match([fault])) for fault in found]


def _told(fault: ValidationError) -> str:
    where = fault.json_path.removeprefix("$").removeprefix(".")
    return f"{where}: {fault.message}" if where else fault.message


def _cut(complaint: str) -> str:
    return complaint if len(complaint) <= _LONGEST_COMPLAINT else f"{complaint[:_LONGEST_COMPLAINT]} …"


# ---- schemas


class _Unfit(Exception):
    """The message says why."""


def flaw(parameters: object) -> str | None:
    """Why this is no JSON schema of a tool's arguments; None: it is."""
    if not isinstance(parameters, dict) or cast(Schema, parameters).get("type") != "object":
        return 'must be a JSON schema with "type": "object"'
    if is_too_deep(cast(Schema, parameters)):
        return f"must not be nested deeper than {DEEPEST_JSON} levels"
    if not has_storable_numbers(cast(Schema, parameters)):
        return "must hold only finite numbers, and integers of at most 64 bits"
    try:
        with allowance():
            _survey(cast(Schema, parameters))
    except _Unfit as why:
        return _cut(str(why))
    except TooMuchWork:
        return "must not take so much work to check"
    except ValueError as error:
        return _cut(f"must not hold an $id that is no URI: {error}")
    return None


def _survey(parameters: Schema) -> None:
    """Looks at each part once, wherever it is referred to from. Raises _Unfit, TooMuchWork."""
    parts = _Parts(parameters)
    together = {"patternProperties", "unevaluatedProperties"}
    if together <= parts.keywords:  # the library would match the patterns with Python's own engine
        raise _Unfit("must not hold both patternProperties and unevaluatedProperties")
    weights: dict[int, int] = {}
    try:
        for part in TopologicalSorter(parts.beside).static_order():
            weights[part] = min(1 + sum(weights[other] for other in parts.beside[part]), _MOST_PARTS_OF_A_VALUE + 1)
    except CycleError:
        raise _Unfit("must not refer to itself without end") from None
    if max(weights.values()) > _MOST_PARTS_OF_A_VALUE:
        raise _Unfit(f"must not compare a value with more than {_MOST_PARTS_OF_A_VALUE} schemas, counting each where it is referred to")


class _Parts:
    """The parts of a schema, by their identity. `beside`: those that are applied to the same value as it, as often as they are.

    References can lead into what is no schema; that is looked at like a schema of its own.
    """

    def __init__(self, parameters: Schema) -> None:
        self.beside: dict[int, list[int]] = {}
        self.keywords: set[str] = set()
        self._targets: list[tuple[Resource[Any], Any]] = []
        self._enter(_resource(parameters), Registry[Any]())
        while self._targets:
            target, look_up = self._targets.pop()
            if id(target.contents) not in self.beside:
                self._see(target, look_up)

    def _enter(self, schema: Resource[Any], registry: Any) -> None:
        _check_draft(schema.contents)
        address = schema.id() or ""
        self._see_all(schema, registry.with_resource(address, schema).crawl().resolver(address))

    def _see(self, target: Resource[Any], look_up: Any) -> None:
        _check_draft(target.contents)
        self._see_all(target, look_up)

    def _see_all(self, schema: Resource[Any], look_up: Any) -> None:
        left = [(schema, look_up)]
        while left:
            part, look_up = left.pop()
            go_on()
            if id(part.contents) in self.beside:
                continue
            self.beside[id(part.contents)] = []
            contents: object = part.contents
            if isinstance(contents, dict):
                self._note(cast(Schema, contents), look_up)
            left += [(inner, look_up.in_subresource(inner)) for inner in part.subresources()]

    def _note(self, schema: Schema, look_up: Any) -> None:
        self.keywords |= schema.keys()
        _check_patterns(schema)
        targets = [_looked_up(schema[keyword], look_up) for keyword in ("$ref", "$dynamicRef") if keyword in schema]
        self._targets += targets
        self.beside[id(schema)] = [*(id(target.contents) for target, _ in targets), *map(id, _beside(schema))]


def _beside(schema: Schema) -> Iterator[object]:
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(keyword, ())
    for keyword in ("not", "if", "then", "else"):
        if keyword in schema:
            yield schema[keyword]
    yield from schema.get("dependentSchemas", {}).values()


def _resource(schema: object) -> Resource[Any]:
    return cast("Resource[Any]", DRAFT202012.create_resource(cast(Any, schema)))


def _looked_up(reference: str, look_up: Any) -> tuple[Resource[Any], Any]:
    """Where it leads, and from where that refers on. A pointer into what is neither object nor list raises what Python raises there."""
    try:
        found = look_up.lookup(reference)
    except Unresolvable as missing:
        raise _Unfit(f"must not refer to what is not in it, such as {missing.ref!r}") from None
    except (LookupError, TypeError, ValueError):
        raise _Unfit(f"must not refer to what is not in it, such as {reference!r}") from None
    return _resource(found.contents), found.resolver


def _check_draft(schema: object) -> None:
    try:
        fault = next(_draft.iter_errors(schema), None)
    except ValueError as error:
        raise _Unfit(f"must be JSON: {error}") from None
    if fault is not None:
        where = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in fault.instance_path)
        raise _Unfit(f"must be a JSON schema; ${where}: {fault.message}")


def _check_patterns(schema: Schema) -> None:
    own = (schema["pattern"],) if "pattern" in schema else ()
    for pattern in (*own, *schema.get("patternProperties", ())):
        go_on()
        try:
            compile_(pattern)
        except NoPattern:
            raise _Unfit(f"must hold only patterns that can be matched, unlike {pattern!r}") from None
