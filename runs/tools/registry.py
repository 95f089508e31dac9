"""Server tools: what an agent can be given, and how a call to one becomes a return. A tool's failure is a return, never an exception.

The tools that come with the server are in `runs/tools/builtin/`. Tools from elsewhere are offered to the registry by whoever knows them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import structlog
from jsonschema import Draft202012Validator
from jsonschema.exceptions import (
    SchemaError,
    ValidationError,
    best_match,  # pyright: ignore[reportUnknownVariableType]
    relevance,
)
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from db.engine import Database
from streams.log import Transaction
from vocabulary.messages import ToolCall, ToolReturn, ToolReturnStatus, ToolSource
from vocabulary.runs import Run
from vocabulary.text import DEEPEST_JSON, is_too_deep, parsed, storable

log = structlog.get_logger()

Arguments = dict[str, Any]
Effect = Callable[[Transaction], Awaitable[str]]
"""What a tool changes in our own database, and what it says about it."""

LONGEST_NAME = 64  # that all providers take

_LONGEST_COMPLAINT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """In what a call happens. `once` does an effect while the run still holds its lease, and stores what it says as the call's return
    in the same transaction: whatever becomes of the worker, it was done and the model is told so, or it was not done.
    """

    run: Run
    agent_id: str
    database: Database
    once: Callable[[Effect], Awaitable[str]]

    @property
    def conversation_id(self) -> str:
        return self.run.conversation_id


class ToolFailed(Exception):
    """The tool could not do what it was asked to; the message is for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """`parameters` is the JSON schema of the arguments object. `run` answers the text that the model is shown, or raises.

    `timeout_s` None: it may take as long as it needs; for tools whose only work is in our own database, which has limits of its own.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[[Arguments, ToolContext], Awaitable[str]]
    requires_approval: bool = False
    source: ToolSource = ToolSource.BUILTIN
    timeout_s: float | None = 60.0


class ToolRegistry:
    """By name. What others offer later takes no name that is taken: there it is called `namespace_name`."""

    def __init__(self, tools: Iterable[ServerTool]) -> None:
        self._own = {tool.name: tool for tool in tools}
        self._offered: dict[str, dict[str, ServerTool]] = {}

    def offer(self, namespace: str, tools: Iterable[ServerTool]) -> tuple[ServerTool, ...]:
        """In place of what was offered under this namespace before. Answers them under the names by which they can be given to agents."""
        self._offered.pop(namespace, None)
        taken = {tool.name for tool in self.definitions()}
        offered: dict[str, ServerTool] = {}
        for tool in tools:
            name = _free(tool.name, namespace, taken | offered.keys())
            if name in taken or name in offered:
                log.warning("a tool is left out", namespace=namespace, tool=tool.name, name="taken")
            else:
                offered[name] = _renamed(tool, name)
        self._offered[namespace] = offered
        return tuple(offered.values())

    def definitions(self) -> tuple[ServerTool, ...]:
        return (*self._own.values(), *(tool for offered in self._offered.values() for tool in offered.values()))

    def get(self, name: str) -> ServerTool | None:
        return self._own.get(name) or next((offered[name] for offered in self._offered.values() if name in offered), None)


def _free(name: str, namespace: str, taken: set[str]) -> str:
    return f"{namespace}_{name}"[:LONGEST_NAME] if name in taken else name


def _renamed(tool: ServerTool, name: str) -> ServerTool:
    return tool if tool.name == name else replace(tool, name=name)


# ---- a call


def complaint(parameters: dict[str, Any], arguments_text: str) -> str | None:
    """Why these arguments do not fit their schema, in words for the model; None: they do."""
    try:
        arguments = parsed(arguments_text)
    except ValueError as error:
        return f"The arguments cannot be read as JSON: {error}."
    if not isinstance(arguments, dict):
        return "The arguments are not a JSON object."
    try:
        faults = _faults(parameters, cast(Arguments, arguments))
    except Unresolvable as missing:
        return f"The tool's parameters cannot be checked: {missing}"
    except RecursionError:
        return "The tool's parameters cannot be checked: they refer to themselves without end."
    return _cut(f"The arguments are not what the tool takes: {'; '.join(map(_told, faults))}") if faults else None


def flaw(parameters: object) -> str | None:
    """Why this is no JSON schema of a tool's arguments; None: it is."""
    if not isinstance(parameters, dict) or cast(Arguments, parameters).get("type") != "object":
        return 'must be a JSON schema with "type": "object"'
    if is_too_deep(cast(Arguments, parameters)):
        return f"must not be nested deeper than {DEEPEST_JSON} levels"
    try:
        Draft202012Validator.check_schema(cast(Arguments, parameters))
        _look_up_references(cast(Arguments, parameters))
        _faults(cast(Arguments, parameters), {})
    except SchemaError as error:
        return _cut(f"must be a JSON schema; {error.json_path}: {error.message}")
    except Unresolvable as missing:
        return _cut(f"must not refer to what is not in it, such as {missing.ref!r}")
    except RecursionError:
        return "must not refer to itself without end"
    return None


def _look_up_references(parameters: dict[str, Any]) -> None:
    """Also those that only some arguments would lead to. Raises Unresolvable."""
    schema = DRAFT202012.create_resource(parameters)
    address = schema.id() or ""
    look_up = Registry[Any]().with_resource(address, schema).crawl().resolver(address)
    left = [(schema, look_up)]
    while left:
        part, look_up = left.pop()
        if isinstance(part.contents, dict) and isinstance(reference := part.contents.get("$ref"), str):
            look_up.lookup(reference)
        left += [(inner, look_up.in_subresource(inner)) for inner in part.subresources()]


def _faults(parameters: dict[str, Any], arguments: Arguments) -> list[ValidationError]:
    """The worst first. With a registry of nothing: a schema that names another place is not followed there."""
    validator = Draft202012Validator(parameters, registry=Registry())
    found = cast("list[ValidationError]", sorted(validator.iter_errors(arguments), key=relevance, reverse=True))  # pyright: ignore[reportUnknownMemberType]
    return [cast(ValidationError, best_match([fault])) for fault in found]


def _told(fault: ValidationError) -> str:
    where = fault.json_path.removeprefix("$").removeprefix(".")
    return f"{where}: {fault.message}" if where else fault.message


def _cut(complaint: str) -> str:
    return complaint if len(complaint) <= _LONGEST_COMPLAINT else f"{complaint[:_LONGEST_COMPLAINT]} …"


async def answer(call: ToolCall, tool: ServerTool, context: ToolContext, *, most_characters: int) -> ToolReturn:
    """Runs one call, whose arguments were found to fit. Whatever goes wrong is an error return; only a cancellation passes through."""
    patience = asyncio.timeout(tool.timeout_s)
    try:
        async with patience:
            output = await tool.run(cast(Arguments, call.arguments), context)
    except ToolFailed as failure:
        return error_return(call, clipped(str(failure), most_characters))
    except Exception as error:
        if patience.expired():
            return error_return(call, f"The tool did not answer within {tool.timeout_s:g} seconds; whether it did its work is unknown.")
        log.warning("a tool failed", tool=call.name, exc_info=True)
        return error_return(call, clipped(f"{type(error).__name__}: {error}", most_characters))
    return success(call, clipped(output, most_characters))


def success(call: ToolCall, output: str) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.SUCCESS, output=storable(output))


def error_return(call: ToolCall, output: str) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.ERROR, output=storable(output))


def clipped(output: str, most_characters: int) -> str:
    """With a mark where something was left out: in the middle, since both ends of an output tell most."""
    if len(output) <= most_characters:
        return output
    head, tail = most_characters * 3 // 4, most_characters // 4
    return f"{output[:head]}\n[… {len(output) - head - tail} characters left out …]\n{output[len(output) - tail :]}"
