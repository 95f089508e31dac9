"""The closed sets, with a sentence for each member. The enums themselves are those of `vocabulary`; the two below are of the API alone."""

from collections.abc import Mapping
from enum import Enum, StrEnum

import strawberry
from strawberry.types.enum import has_enum_definition

from vocabulary.compaction import CompactionMode, CompactionTrigger
from vocabulary.conversations import ConversationOrderField, ConversationStatus
from vocabulary.events import DeltaMode, ResetReason
from vocabulary.messages import HiddenReasoningState, InputRole, MessageStatus, MessageType, ToolCallState, ToolReturnStatus, ToolSource
from vocabulary.model_settings import ReasoningEffort
from vocabulary.runs import BusyPolicy, CancelOutcome, RunErrorType, RunKind, RunStatus, StopReason


class ConversationListEventKind(StrEnum):
    CAUGHT_UP = "CAUGHT_UP"
    CREATED = "CREATED"
    CHANGED = "CHANGED"
    DELETED = "DELETED"


class OrderDirection(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


def _describe(enum: type[Enum], description: str, members: Mapping[str, str]) -> None:
    strawberry.enum(enum, description=description)
    assert has_enum_definition(enum)
    for value in enum.__strawberry_definition__.values:
        value.description = members[value.name]


_describe(
    ConversationStatus,
    "What a conversation is doing.",
    {
        "IDLE": "Nothing runs and nothing waits; the next message is answered at once.",
        "RUNNING": "A run is going on or waits in the queue.",
        "AWAITING_INPUT": "A tool call waits for an approval or for its result from the client.",
    },
)
_describe(
    ConversationOrderField,
    "By what conversations can be sorted.",
    {
        "CREATED_AT": "When the conversation was created.",
        "LAST_MESSAGE_AT": "When its last message was written; conversations without one come last.",
        "LAST_RUN_COMPLETED_AT": "When its last run ended; conversations without one come last.",
    },
)
_describe(
    ConversationListEventKind,
    "What happened to the list of conversations.",
    {
        "CAUGHT_UP": "Query the list now and apply what follows. It comes first, and again whenever anything may have been missed.",
        "CREATED": "A conversation was added; it may be one that the list holds already.",
        "CHANGED": "A conversation has a new title, model, status or last message; add it if the list does not hold it.",
        "DELETED": "A conversation was deleted.",
    },
)
_describe(OrderDirection, "Which end comes first.", {"ASC": "The smallest or oldest first.", "DESC": "The largest or newest first."})
_describe(
    MessageType,
    "What kind of message it is.",
    {
        "SYSTEM": "An instruction to the model.",
        "USER": "What a user said.",
        "ASSISTANT": "What the model answered.",
        "REASONING": "What the model thought on its way to an answer.",
        "HIDDEN_REASONING": "Reasoning that the provider does not show.",
        "TOOL_CALL": "All tool calls of one step.",
        "TOOL_RETURN": "What the tools of one step returned.",
        "APPROVAL_REQUEST": "Tool calls that wait for somebody's approval.",
        "APPROVAL_RESPONSE": "What was decided about waiting tool calls.",
        "SUMMARY": "A summary that stands for earlier messages.",
        "EVENT": "Something that happened in the conversation besides talking.",
        "ERROR": "A failure, kept where it happened.",
    },
)
_describe(
    MessageStatus,
    "How far a message has come.",
    {
        "QUEUED": "An input that waits for an earlier run and enters history when its own run starts.",
        "IN_PROGRESS": "It is being written.",
        "COMPLETED": "It is whole.",
        "INTERRUPTED": "It was cut short and stays as it is.",
        "FAILED": "Writing it failed; it stays as it is.",
    },
)
_describe(
    HiddenReasoningState,
    "Why reasoning is not shown.",
    {"REDACTED": "The provider returned it encrypted.", "OMITTED": "The provider did not return it."},
)
_describe(
    ToolSource,
    "Where a tool comes from.",
    {"BUILTIN": "It is part of this server.", "MCP": "It is offered by an MCP server.", "CLIENT": "The client of the request runs it."},
)
_describe(
    ToolCallState,
    "How far a tool call has come.",
    {
        "STREAMING": "The model is still writing its arguments.",
        "PENDING": "It is complete and will be run.",
        "RUNNING": "The tool is at work.",
        "AWAITING_APPROVAL": "It waits for somebody's approval.",
        "AWAITING_CLIENT": "It waits for the client's result.",
        "COMPLETED": "The tool returned.",
        "FAILED": "The tool failed; the model was told so.",
        "DENIED": "Somebody denied it; the model was told so.",
        "INTERRUPTED": "It was cut short, and its outcome is unknown.",
    },
)
_describe(ToolReturnStatus, "How a tool call ended.", {"SUCCESS": "The tool did its work.", "ERROR": "The output says what went wrong."})
_describe(
    ReasoningEffort,
    "How much a model should think before it answers; models without such a setting pass over it.",
    {"NONE": "Not at all.", "MINIMAL": "As little as it can.", "LOW": "A little.", "MEDIUM": "Moderately.", "HIGH": "As much as it can."},
)
_describe(
    RunKind,
    "What a run does.",
    {"RESPONSE": "It answers messages.", "COMPACTION": "It replaces earlier messages with a summary."},
)
_describe(
    RunStatus,
    "How far a run has come.",
    {
        "QUEUED": "It waits for its turn.",
        "RUNNING": "It is going on.",
        "COMPLETED": "It ended by itself.",
        "FAILED": "It ended with an error.",
        "CANCELLED": "Somebody ended it.",
    },
)
_describe(
    StopReason,
    "Why a run or a step ended.",
    {
        "END_TURN": "The model had nothing more to say.",
        "MAX_STEPS": "The run had taken as many steps as it was allowed.",
        "MAX_TOKENS": "The model had written as many tokens as it was allowed.",
        "CONTENT_FILTER": "The provider's content filter stopped the model.",
        "REQUIRES_APPROVAL": "A tool call waits for an approval or for the client's result.",
        "CANCELLED": "Somebody cancelled the run.",
        "ERROR": "Something failed in this server.",
        "LLM_ERROR": "The provider of the model failed.",
        "INVALID_LLM_RESPONSE": "The model's answer could not be used.",
        "CONTEXT_WINDOW_OVERFLOW": "The conversation no longer fits into the model's context window.",
    },
)
_describe(
    RunErrorType,
    "What went wrong in a run.",
    {
        "LLM_TIMEOUT": "The provider did not answer in time.",
        "LLM_RATE_LIMIT": "The provider refused because of too many requests.",
        "LLM_AUTHENTICATION": "The provider refused this server's key.",
        "LLM_BAD_REQUEST": "The provider refused the request as it was.",
        "LLM_OVERLOADED": "The provider had no capacity.",
        "LLM_EMPTY_RESPONSE": "The model answered with nothing, or with something that could not be read.",
        "LLM_ERROR": "The provider failed in another way.",
        "CONTEXT_WINDOW_OVERFLOW": "The conversation does not fit into the model's context window.",
        "COMPACTION_INEFFECTIVE": "The summary would not have been shorter than what it replaces.",
        "TOOL_ERROR": "A tool failed in a way that the run could not survive.",
        "WORKER_LOST": "The process that ran it disappeared too many times.",
        "INTERNAL": "Something failed in this server.",
    },
)
_describe(
    DeltaMode,
    "How a message in progress is delivered.",
    {
        "ALL": "Every delta, as it was stored.",
        "COALESCED": "Deltas come merged while the client is slower than the model.",
        "NONE": "No deltas, only whole messages.",
    },
)
_describe(
    ResetReason,
    "Why what a client holds no longer matches the conversation.",
    {
        "POSITION_AHEAD": "The position asked for lies beyond the head.",
        "TOO_FAR_BEHIND": "More has happened since that position than is replayed.",
        "HISTORY_LOST": "The database was restored to an earlier state.",
        "ACCESS_REVOKED": "The viewer may no longer see the conversation; the stream ends.",
        "CONVERSATION_DELETED": "The conversation is gone; the stream ends.",
    },
)
_describe(
    BusyPolicy,
    "What to do with a message when the conversation is busy.",
    {
        "ENQUEUE": "It waits for its turn.",
        "REJECT": "It is refused with CONVERSATION_BUSY.",
        "INTERRUPT": "The active run is cancelled and it goes next; what waits already waits on.",
    },
)
_describe(
    CancelOutcome,
    "What became of a run that was to be cancelled.",
    {
        "CANCELLED": "It is over and writes nothing any more; or it was over, and its tool calls that still waited were denied.",
        "ALREADY_ENDED": "It had ended before, and nothing of it waited; nothing was changed.",
        "FAILED": "It could not be cancelled.",
    },
)
_describe(InputRole, "As whom a message is sent.", {"USER": "As a user.", "SYSTEM": "As an instruction in the course of the conversation."})
_describe(
    CompactionMode,
    "What a compaction summarises, and by whom.",
    {
        "ALL": "The whole context but the system message, by the summariser.",
        "SLIDING_WINDOW": "The oldest part of the context, by the summariser.",
        "SELF_COMPACT_ALL": "As ALL, by the agent's own model with its own system prompt.",
        "SELF_COMPACT_SLIDING_WINDOW": "As SLIDING_WINDOW, by the agent's own model with its own system prompt.",
    },
)
_describe(
    CompactionTrigger,
    "Why a compaction happened.",
    {
        "MANUAL": "Somebody asked for it.",
        "CONTEXT_THRESHOLD": "The context had grown beyond the agent's trigger fraction.",
        "CONTEXT_OVERFLOW": "The provider refused the context as too long.",
    },
)
