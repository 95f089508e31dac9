"""What the engine asks of a model, and the closed union of what comes back. Every provider is hidden behind `Model`.

A call's stream ends with exactly one `Finished` or `Failed`; a provider's failure is data, never an exception.
Cancelling the task that iterates the stream closes the connection to the provider.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vocabulary.messages import ContentPart, HiddenReasoningBody, PlainBody, ReasoningBody, ToolReturnStatus
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunError, StopReason, Usage

# ---- the request: provider-neutral history, oldest first


@dataclass(frozen=True, slots=True)
class UserTurn:
    content: tuple[ContentPart, ...]
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class SystemTurn:
    """An instruction inside the history (a SYSTEM input), not the system prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    text: str
    body: PlainBody = field(default_factory=PlainBody)


@dataclass(frozen=True, slots=True)
class ReasoningTurn:
    text: str
    body: ReasoningBody | HiddenReasoningBody


@dataclass(frozen=True, slots=True)
class CalledTool:
    """`call_id` is whatever pairs it with its return in this request: the provider's id where known, else ours."""

    call_id: str
    name: str
    arguments_text: str


@dataclass(frozen=True, slots=True)
class ReturnedTool:
    call_id: str
    name: str
    status: ToolReturnStatus
    output: str


@dataclass(frozen=True, slots=True)
class ToolCallTurn:
    calls: tuple[CalledTool, ...]


@dataclass(frozen=True, slots=True)
class ToolReturnTurn:
    returns: tuple[ReturnedTool, ...]


Turn = UserTurn | SystemTurn | AssistantTurn | ReasoningTurn | ToolCallTurn | ToolReturnTurn


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    name: str
    description: str
    parameters: dict[str, Any]  # JSON schema of an object


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    system: str
    history: Sequence[Turn]
    tools: Sequence[ToolDefinition] = ()
    settings: ModelSettings = field(default_factory=ModelSettings)


# ---- the answer: parts, each started, grown and ended; `index` tells parts of one call apart.
# Text and reasoning are open one at a time; tool calls may grow side by side, and end when the answer does.


@dataclass(frozen=True, slots=True)
class TextStarted:
    index: int


@dataclass(frozen=True, slots=True)
class ReasoningStarted:
    index: int


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """Sent when the tool's name is known."""

    index: int
    name: str
    provider_call_id: str | None


@dataclass(frozen=True, slots=True)
class Delta:
    """More of a part: text, reasoning, or a tool call's arguments as JSON text. Never empty; NUL and lone surrogates already replaced."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class TextEnded:
    index: int
    body: PlainBody = field(default_factory=PlainBody)


@dataclass(frozen=True, slots=True)
class ReasoningEnded:
    index: int
    body: ReasoningBody


@dataclass(frozen=True, slots=True)
class HiddenReasoning:
    """A reasoning part that the provider does not show; comes whole."""

    index: int
    body: HiddenReasoningBody


@dataclass(frozen=True, slots=True)
class ToolCallEnded:
    """The arguments are complete (the concatenation of this part's deltas, "{}" when there was none)."""

    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """`stop_reason`: END_TURN, MAX_TOKENS or CONTENT_FILTER (END_TURN also when tools are to be called)."""

    usage: Usage
    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class Failed:
    """`usage` is what the provider had reported when it failed, else zero tokens of one request, marked as estimated.

    `transient`: the same request may well be answered a little later; `retry_after_s`: not sooner, says the provider.
    """

    error: RunError
    usage: Usage
    transient: bool = False
    retry_after_s: float | None = None


ModelEvent = (
    TextStarted
    | ReasoningStarted
    | ToolCallStarted
    | Delta
    | TextEnded
    | ReasoningEnded
    | HiddenReasoning
    | ToolCallEnded
    | Finished
    | Failed
)


class Model(Protocol):
    """One model of one provider, ready to be called any number of times, concurrently."""

    @property
    def handle(self) -> str:
        """`provider/name`."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """One call. Parts still open when `Failed` comes are left open. Iterate in `contextlib.aclosing`: who stops early hangs up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is told about a model: `Query.models`, and the context window that the engine reckons with."""

    handle: str
    provider: str
    name: str
    context_window: int
    supports_tools: bool
    supports_reasoning: bool
