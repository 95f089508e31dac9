"""Rows and events as the types of the schema. Pure and thin; nothing here waits, reads or decides."""

from datetime import datetime
from typing import TypedDict

from strawberry import ID

from llm.model import ModelInfo
from resolvers.connections import history_scope
from runs.tools.registry import ServerTool
from schema import agents, blocks, compaction, errors, messages, models, stream, tools
from schema import conversations as conversation_types
from schema import runs as run_types
from schema.connections import Edge
from schema.enums import ConversationListEventKind
from schema.scalars import JSON
from vocabulary import conversations as rows
from vocabulary import events, lists
from vocabulary.compaction import CompactionSettings, CompactionStats
from vocabulary.messages import (
    ApprovalDecision,
    ApprovalResponseBody,
    ContentPart,
    ErrorBody,
    EventBody,
    HiddenReasoningBody,
    ImagePart,
    Message,
    MessageStatus,
    MessageType,
    PlainBody,
    ReasoningBody,
    SummaryBody,
    SystemBody,
    TextPart,
    ToolCall,
    ToolCallBody,
    ToolReturn,
    ToolReturnBody,
    UserBody,
)
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunError, RunErrorType, Step, Usage


def maybe_id(value: str | None) -> ID | None:
    return None if value is None else ID(value)


# ---- agents and models


def agent(row: rows.Agent) -> agents.Agent:
    return agents.Agent(
        id=ID(row.id),
        name=row.name,
        description=row.description,
        instructions=row.instructions,
        model=row.model,
        model_settings=model_settings(row.model_settings),
        compaction_settings=compaction_settings(row.compaction_settings),
        created_at=row.created_at,
        updated_at=row.updated_at,
        agent_tools=row.tools,
    )


def block(row: rows.Block) -> blocks.Block:
    return blocks.Block(
        id=ID(row.id),
        label=row.label,
        value=row.value,
        description=row.description,
        limit=row.limit,
        read_only=row.read_only,
        isolated=row.isolated,
        updated_at=row.updated_at,
    )


def model_settings(settings: ModelSettings) -> models.ModelSettings:
    return models.ModelSettings(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_output_tokens=settings.max_output_tokens,
        context_window=settings.context_window,
        reasoning_effort=settings.reasoning_effort,
        parallel_tool_calls=settings.parallel_tool_calls,
    )


def compaction_settings(settings: CompactionSettings) -> compaction.CompactionSettings:
    return compaction.CompactionSettings(
        mode=settings.mode,
        model=settings.model,
        model_settings=None if settings.model_settings is None else model_settings(settings.model_settings),
        prompt=settings.prompt,
        prompt_acknowledgement=settings.prompt_acknowledgement,
        clip_chars=settings.clip_chars,
        sliding_window_fraction=settings.sliding_window_fraction,
        trigger_fraction=settings.trigger_fraction,
    )


def compaction_stats(stats: CompactionStats) -> compaction.CompactionStats:
    return compaction.CompactionStats(
        trigger=stats.trigger,
        mode=stats.mode,
        messages_before=stats.messages_before,
        messages_after=stats.messages_after,
        tokens_before=stats.tokens_before,
        tokens_after=stats.tokens_after,
    )


def model(info: ModelInfo) -> models.Model:
    return models.Model(
        handle=info.handle,
        provider=info.provider,
        name=info.name,
        context_window=info.context_window,
        supports_tools=info.supports_tools,
        supports_reasoning=info.supports_reasoning,
    )


def tool(server_tool: ServerTool, requires_approval: bool | None = None) -> tools.Tool:
    """`requires_approval` None: the tool's own default."""
    return tools.Tool(
        name=server_tool.name,
        description=server_tool.description,
        parameters=JSON(server_tool.parameters),
        requires_approval=server_tool.requires_approval if requires_approval is None else requires_approval,
        source=server_tool.source,
    )


# ---- conversations and runs


def conversation(row: rows.Conversation) -> conversation_types.Conversation:
    return conversation_types.Conversation(
        id=ID(row.id),
        summary=row.summary,
        model=row.model,
        model_settings=None if row.model_settings is None else model_settings(row.model_settings),
        status=row.status,
        head_sequence=row.head_sequence,
        last_message_at=row.last_message_at,
        last_run_completed_at=row.last_run_completed_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        agent_id=row.agent_id,
        own_settings=row.model_settings,
        forked_from_id=row.forked_from_id,
        pending_message_id=row.pending_message_id,
    )


def run(row: Run) -> run_types.Run:
    return run_types.Run(
        id=ID(row.id),
        conversation_id=ID(row.conversation_id),
        kind=row.kind,
        status=row.status,
        stop_reason=row.stop_reason,
        error=None if row.error is None else run_error(row.error),
        model=row.model,
        usage=usage(row.usage),
        group_id=maybe_id(row.group_id),
        idempotency_key=row.idempotency_key,
        attempt=row.attempt,
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        time_to_first_token_ms=row.time_to_first_token_ms,
    )


def run_error(error: RunError) -> errors.RunError:
    return errors.RunError(type=error.type, message=error.message)


def usage(used: Usage) -> run_types.Usage:
    return run_types.Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        total_tokens=used.total_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
        reasoning_tokens=used.reasoning_tokens,
        requests=used.requests,
        estimated=used.estimated,
    )


def step(row: Step) -> run_types.Step:
    return run_types.Step(
        id=ID(row.id),
        index=row.index,
        kind=row.kind,
        model=row.model,
        usage=usage(row.usage),
        stop_reason=row.stop_reason,
        started_at=row.started_at,
        completed_at=row.completed_at,
    )


# ---- messages


class _Common(TypedDict):
    id: ID
    conversation_id: ID
    type: MessageType
    status: MessageStatus
    ordinal: int | None
    text: str
    in_context: bool
    group_id: ID | None
    run_id: ID | None
    step_id: ID | None
    sequence: int
    created_at: datetime


_UNREADABLE = RunError(RunErrorType.INTERNAL, "This version of the server cannot show this message.")


def message(row: Message) -> messages.Message:
    common = _common(row)
    match row.body:
        case SystemBody() as body:
            return messages.SystemMessage(**common, client_message_id=body.client_message_id)
        case UserBody() as body:
            content = [content_part(part) for part in body.content]
            return messages.UserMessage(**common, content=content, client_message_id=body.client_message_id, sender=body.sender)
        case PlainBody() if row.type is MessageType.ASSISTANT:
            return messages.AssistantMessage(**common)
        case ReasoningBody() as body:
            return messages.ReasoningMessage(**common, signature=body.signature)
        case HiddenReasoningBody() as body:
            return messages.HiddenReasoningMessage(**common, state=body.state)
        case ToolCallBody() as body if row.type is MessageType.APPROVAL_REQUEST:
            return messages.ApprovalRequestMessage(**common, tool_calls=[tool_call(call) for call in body.tool_calls])
        case ToolCallBody() as body:
            return messages.ToolCallMessage(**common, tool_calls=[tool_call(call) for call in body.tool_calls])
        case ToolReturnBody() as body:
            return messages.ToolReturnMessage(**common, tool_returns=[tool_return(each) for each in body.tool_returns])
        case ApprovalResponseBody() as body:
            return messages.ApprovalResponseMessage(**common, decisions=[decision(each) for each in body.decisions])
        case SummaryBody(stats=stats) if stats is not None:
            return messages.SummaryMessage(**common, stats=compaction_stats(stats))
        case EventBody() as body:
            return messages.EventMessage(**common, event_type=body.event_type, data=JSON(body.data))
        case ErrorBody() as body:
            return messages.ErrorMessage(**common, error=run_error(body.error))
        case PlainBody() | SummaryBody():
            return messages.ErrorMessage(**common, error=run_error(_UNREADABLE))


def _common(row: Message) -> _Common:
    return {
        "id": ID(row.id),
        "conversation_id": ID(row.conversation_id),
        "type": row.type,
        "status": row.status,
        "ordinal": row.ordinal,
        "text": row.text,
        "in_context": row.in_context,
        "group_id": maybe_id(row.group_id),
        "run_id": maybe_id(row.run_id),
        "step_id": maybe_id(row.step_id),
        "sequence": row.sequence,
        "created_at": row.created_at,
    }


def message_edge(row: Message, tenant: str) -> messages.MessageEdge | None:
    """Its edge in `Conversation.messages`; None while it is not in history."""
    if row.ordinal is None:
        return None
    return Edge(cursor=history_scope(tenant, row.conversation_id).cursor((row.ordinal,)), node=message(row))


def content_part(part: ContentPart) -> messages.TextPart | messages.ImagePart:
    match part:
        case TextPart(text):
            return messages.TextPart(text=text)
        case ImagePart(url, media_type):
            return messages.ImagePart(url=url, media_type=media_type)


def tool_call(call: ToolCall) -> tools.ToolCall:
    return tools.ToolCall(
        id=ID(call.id),
        name=call.name,
        arguments=None if call.arguments is None else JSON(call.arguments),
        arguments_text=call.arguments_text,
        state=call.state,
        source=call.source,
    )


def tool_return(returned: ToolReturn) -> tools.ToolReturn:
    return tools.ToolReturn(tool_call_id=ID(returned.tool_call_id), name=returned.name, status=returned.status, output=returned.output)


def decision(decided: ApprovalDecision) -> tools.ApprovalDecision:
    return tools.ApprovalDecision(tool_call_id=ID(decided.tool_call_id), approved=decided.approved, reason=decided.reason)


# ---- the stream


def item(delivered: events.Item, tenant: str) -> stream.ConversationEvent:
    return stream.ConversationEvent(
        sequence=delivered.sequence,
        previous_sequence=delivered.previous_sequence,
        occurred_at=delivered.occurred_at,
        run_id=maybe_id(delivered.run_id),
        payload=None if delivered.payload is None else payload(delivered.payload, tenant),
    )


def context_compacted(row: Message, first_kept_message_id: str | None, stats: CompactionStats) -> stream.ContextCompacted:
    shown = compaction_stats(stats)
    tail_ordinal = row.body.tail_ordinal if isinstance(row.body, SummaryBody) else None
    return stream.ContextCompacted(
        summary_message=messages.SummaryMessage(**_common(row), stats=shown),
        first_kept_message_id=maybe_id(first_kept_message_id),
        tail_ordinal=tail_ordinal or 0,
        stats=shown,
    )


def payload(happened: events.Payload, tenant: str) -> stream.EventPayload:
    match happened:
        case events.MessageDelta(message_id, message_type, offset, text, call_id):
            return stream.MessageDelta(
                message_id=ID(message_id), message_type=message_type, offset=offset, text=text, tool_call_id=maybe_id(call_id)
            )
        case events.MessageStarted(row):
            return stream.MessageStarted(message=message(row), message_edge=message_edge(row, tenant))
        case events.MessageCompleted(row):
            return stream.MessageCompleted(message=message(row), message_edge=message_edge(row, tenant))
        case events.MessageChanged(row):
            return stream.MessageChanged(message=message(row))
        case events.ToolCallChanged(message_id, _, call):
            return stream.ToolCallChanged(message_id=ID(message_id), tool_call=tool_call(call))
        case events.RunChanged(row, status, stop_reason):
            return stream.RunChanged(run=run(row), status=status, stop_reason=stop_reason)
        case events.ConversationChanged(row):
            return stream.ConversationChanged(conversation=conversation(row))
        case events.ContextCompacted(row, first_kept_message_id, stats):
            return context_compacted(row, first_kept_message_id, stats)
        case events.CaughtUp(head):
            return stream.CaughtUp(head_sequence=head)
        case events.StreamReset(reason, head):
            return stream.StreamReset(reason=reason, head_sequence=head)


def list_item(happened: lists.ListItem) -> stream.ConversationListEvent:
    match happened:
        case lists.ListCaughtUp():
            return stream.ConversationListEvent(kind=ConversationListEventKind.CAUGHT_UP, conversation_id=None, conversation=None)
        case lists.ListChange(kind=kind, conversation_id=id_, conversation=row):
            return stream.ConversationListEvent(
                kind=ConversationListEventKind(kind.value),
                conversation_id=ID(id_),
                conversation=None if row is None else conversation(row),
            )
