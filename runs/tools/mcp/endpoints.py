"""Where tool servers are reached, as plain values, and how long is waited for them. Nothing here loads the protocol's library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A server that is started here, and spoken to over its standard input and output.

    It is given `env` beside a few harmless variables (PATH, HOME, USER ...): keys in our own environment are none of its business.
    """

    command: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server that runs already, and is spoken to over streamable HTTP."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """`name`: goes before a tool's own name where that is taken. `timeout_s`: of one call."""

    name: str
    reached: Program | Address
    requires_approval: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`connect_s`: until a server has told its tools for the first time; `answer_s`: until it tells them again when it is asked.
    `check_s`: how often it is asked when it says nothing by itself. Delays between two tries to reach it double, from the first
    to the longest. `start_s`: how long a program waits at its start for all servers to have been tried.
    """

    connect_s: float = 60.0
    answer_s: float = 30.0
    check_s: float = 30.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    start_s: float = 5.0


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool as its server describes it; nothing of it has been looked at yet."""

    name: str
    description: str
    parameters: dict[str, Any]


def away(server: McpServer) -> str:
    """What a model is told about it."""
    return f"The tool server {server.name!r} is away."
