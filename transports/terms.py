"""What an endpoint serves, to whom and within which limits: the same over HTTP and over WebSockets."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection
from strawberry import Schema

from telemetry.metrics import Metrics

ContextOf = Callable[[HTTPConnection, Mapping[str, Any] | None], Awaitable[object]]
"""Makes the context of one operation, from the connection and, on a socket, the payload of its `connection_init`. May raise `Refused`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    schema: Schema
    context_of: ContextOf
    allowed_origins: tuple[str, ...] = ()  # other origins whose pages may open a WebSocket; "*" is any
    max_request_bytes: int = 1 << 20  # a POST body, or a frame
    max_operations_per_socket: int = 100
    init_timeout_s: float = 10.0
    metrics: Metrics = field(default_factory=Metrics)
