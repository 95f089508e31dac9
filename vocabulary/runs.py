"""Runs and their steps: enums and frozen rows. Which status may follow which is told in `runs/state.py`."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from vocabulary.compaction import CompactionSettings
from vocabulary.model_settings import ModelSettings


class RunKind(StrEnum):
    RESPONSE = "RESPONSE"
    COMPACTION = "COMPACTION"


class RunStatus(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


LIVE_STATUSES = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})
TERMINAL_STATUSES = frozenset(RunStatus) - LIVE_STATUSES


class BusyPolicy(StrEnum):
    """What a send does when a run is active or queued."""

    ENQUEUE = "ENQUEUE"
    REJECT = "REJECT"
    INTERRUPT = "INTERRUPT"


class CancelOutcome(StrEnum):
    """What became of one run that was to be cancelled."""

    CANCELLED = "CANCELLED"
    ALREADY_ENDED = "ALREADY_ENDED"
    FAILED = "FAILED"


class StopReason(StrEnum):
    END_TURN = "END_TURN"
    MAX_STEPS = "MAX_STEPS"
    MAX_TOKENS = "MAX_TOKENS"
    CONTENT_FILTER = "CONTENT_FILTER"
    REQUIRES_APPROVAL = "REQUIRES_APPROVAL"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"
    LLM_ERROR = "LLM_ERROR"
    INVALID_LLM_RESPONSE = "INVALID_LLM_RESPONSE"
    CONTEXT_WINDOW_OVERFLOW = "CONTEXT_WINDOW_OVERFLOW"


class RunErrorType(StrEnum):
    LLM_TIMEOUT = "LLM_TIMEOUT"
    LLM_RATE_LIMIT = "LLM_RATE_LIMIT"
    LLM_AUTHENTICATION = "LLM_AUTHENTICATION"
    LLM_BAD_REQUEST = "LLM_BAD_REQUEST"
    LLM_OVERLOADED = "LLM_OVERLOADED"
    LLM_EMPTY_RESPONSE = "LLM_EMPTY_RESPONSE"
    LLM_ERROR = "LLM_ERROR"
    CONTEXT_WINDOW_OVERFLOW = "CONTEXT_WINDOW_OVERFLOW"
    COMPACTION_INEFFECTIVE = "COMPACTION_INEFFECTIVE"
    TOOL_ERROR = "TOOL_ERROR"
    WORKER_LOST = "WORKER_LOST"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class RunError:
    type: RunErrorType
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one model call or the sum of several. None: not reported. `cached` and `reasoning` are parts of input and output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    requests: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def is_unreported(self) -> bool:
        """Nobody has told, or even estimated, what the calls took."""
        return self.estimated and not self.total_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=_sum(self.cached_input_tokens, other.cached_input_tokens),
            cache_write_tokens=_sum(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens=_sum(self.reasoning_tokens, other.reasoning_tokens),
            requests=self.requests + other.requests,
            estimated=self.estimated or other.estimated,
        )


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None and b is None else (a or 0) + (b or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTool:
    """A tool that the client runs itself. `parameters` is the JSON schema of the arguments object."""

    name: str
    description: str
    parameters: dict[str, Any]
    requires_approval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the caller asked of this run beyond its messages; fixed at creation, kept for takeover.

    `answers`: the TOOL_CALL message of an earlier run whose calls were waited for. This run goes on with them, before anything else.
    """

    max_steps: int
    settings: ModelSettings = field(default_factory=ModelSettings)  # request over conversation over agent, merged at creation
    override_system: str | None = None
    client_tools: tuple[ClientTool, ...] = ()
    answers: str | None = None
    compaction: CompactionSettings | None = None  # of a COMPACTION: request over agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A row of `runs`. `created_sequence`: of its first event, also its place in the queue; `sequence`: of its last RunChanged.

    `goes_first`: its input entered history when it was sent, so nothing may come between; the queue waits behind it.
    """

    id: str
    tenant: str
    conversation_id: str
    kind: RunKind
    status: RunStatus
    stop_reason: StopReason | None
    error: RunError | None
    model: str
    request: RunRequest
    usage: Usage
    group_id: str | None
    idempotency_key: str | None
    body_hash: str | None
    applied_through_sequence: int
    created_sequence: int
    sequence: int
    worker_id: str | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    time_to_first_token_ms: int | None
    goes_first: bool = False

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model call of a run and what followed from it. `completed_at` None: cut short, or going on.

    `kind`: COMPACTION when it wrote a summary, which runs of either kind do; such a step does not count against the limit.
    """

    id: str
    run_id: str
    conversation_id: str
    index: int
    model: str
    usage: Usage
    stop_reason: StopReason | None
    started_at: datetime
    completed_at: datetime | None
    kind: RunKind = RunKind.RESPONSE

    @property
    def counts(self) -> bool:
        """Against the limit of its run."""
        return self.completed_at is not None and self.kind is RunKind.RESPONSE
