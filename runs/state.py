"""Which status may follow which: the whole state machine of runs, messages and tool calls, as tables. Pure."""

from collections.abc import Mapping
from typing import TypeVar

from vocabulary.messages import MessageStatus, ToolCallState
from vocabulary.runs import RunErrorType, RunStatus, StopReason

S = TypeVar("S", RunStatus, MessageStatus, ToolCallState)

RUN: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}),
    # RUNNING again: another worker took it over, or a step began or ended.
    RunStatus.RUNNING: frozenset({RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}

MESSAGE: Mapping[MessageStatus, frozenset[MessageStatus]] = {
    MessageStatus.QUEUED: frozenset({MessageStatus.COMPLETED, MessageStatus.INTERRUPTED}),
    MessageStatus.IN_PROGRESS: frozenset({MessageStatus.COMPLETED, MessageStatus.INTERRUPTED, MessageStatus.FAILED}),
    MessageStatus.COMPLETED: frozenset(),
    MessageStatus.INTERRUPTED: frozenset(),
    MessageStatus.FAILED: frozenset(),
}

_ENDS = frozenset({ToolCallState.COMPLETED, ToolCallState.FAILED, ToolCallState.DENIED, ToolCallState.INTERRUPTED})

TOOL_CALL: Mapping[ToolCallState, frozenset[ToolCallState]] = {
    ToolCallState.STREAMING: frozenset({ToolCallState.PENDING, ToolCallState.INTERRUPTED}),
    ToolCallState.PENDING: frozenset({ToolCallState.RUNNING, ToolCallState.AWAITING_APPROVAL, ToolCallState.AWAITING_CLIENT}) | _ENDS,
    ToolCallState.RUNNING: frozenset({ToolCallState.COMPLETED, ToolCallState.FAILED, ToolCallState.INTERRUPTED}),
    ToolCallState.AWAITING_APPROVAL: frozenset({ToolCallState.PENDING}) | _ENDS,  # PENDING: approved
    ToolCallState.AWAITING_CLIENT: _ENDS,
    ToolCallState.COMPLETED: frozenset(),
    ToolCallState.FAILED: frozenset(),
    ToolCallState.DENIED: frozenset(),
    ToolCallState.INTERRUPTED: frozenset(),
}


STOP_REASON: Mapping[RunErrorType, StopReason] = {
    RunErrorType.LLM_EMPTY_RESPONSE: StopReason.INVALID_LLM_RESPONSE,
    RunErrorType.CONTEXT_WINDOW_OVERFLOW: StopReason.CONTEXT_WINDOW_OVERFLOW,
    RunErrorType.COMPACTION_INEFFECTIVE: StopReason.ERROR,
    RunErrorType.INTERNAL: StopReason.ERROR,
}
"""Why a run stopped that failed with this; with any other it was LLM_ERROR."""


class IllegalTransition(Exception):
    """A bug: something was about to leave a state that it cannot leave that way."""

    def __init__(self, old: RunStatus | MessageStatus | ToolCallState, new: RunStatus | MessageStatus | ToolCallState) -> None:
        super().__init__(f"{type(old).__name__}: {old} -> {new}")
        self.old = old
        self.new = new


def moved(table: Mapping[S, frozenset[S]], old: S, new: S) -> S:
    """`new`, when it may follow `old`; raises IllegalTransition otherwise."""
    if new not in table[old]:
        raise IllegalTransition(old, new)
    return new
