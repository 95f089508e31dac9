"""Where models are reached, as plain values. Nothing here loads a provider's library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Protocol(Enum):
    """What a provider speaks."""

    CHAT_COMPLETIONS = auto()
    RESPONSES = auto()
    ANTHROPIC = auto()
    GOOGLE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`provider`: the name in handles. `base_url` None: the provider's own."""

    provider: str
    protocol: Protocol
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    context_window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatibleServer:
    """A server that speaks OpenAI's chat-completions protocol. It may serve other models than those named."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    models: Mapping[str, ServedModel] = field(default_factory=dict[str, ServedModel])


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """`first_token_s`: until there is anything to show; `idle_s`: between two pieces of an answer. A whole answer has no limit.

    Bytes that say nothing (pings, comments) are no pieces: a server can keep a connection open for ever.
    """

    connect_s: float = 10
    first_token_s: float = 300
    idle_s: float = 120
