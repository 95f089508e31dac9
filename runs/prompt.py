"""What a model is told: the compiled system prompt, and messages as provider-neutral turns. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence

from llm.model import AssistantTurn, CalledTool, ReasoningTurn, ReturnedTool, SystemTurn, ToolCallTurn, ToolReturnTurn, Turn, UserTurn
from vocabulary.conversations import Block
from vocabulary.messages import (
    HiddenReasoningBody,
    Message,
    MessageType,
    PlainBody,
    ReasoningBody,
    TextPart,
    ToolCall,
    ToolCallBody,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
    UserBody,
)

_ANYWHERE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUMMARY_FOLLOWS = "The conversation has been going on for longer than can be shown. This is a summary of what was said before:"
_OWN_WORDS = frozenset({MessageType.ASSISTANT, MessageType.TOOL_CALL})
_THOUGHTS = frozenset({MessageType.REASONING, MessageType.HIDDEN_REASONING})
_NEVER_ANSWERED = "The tool did not return anything."


def compile_system(instructions: str, blocks: Iterable[Block]) -> str:
    """The agent's instructions, then its memory blocks by label. Compiled once per conversation, so that prompt caches stay warm."""
    return "\n\n".join(part for part in (instructions, *(_compiled(block) for block in blocks)) if part)


def memory(shared: Iterable[Block], isolated: Iterable[Block]) -> list[Block]:
    """The blocks that one conversation's model is shown, by label: its own ones stand in front of the agent's."""
    by_label = {block.label: block for blocks in (shared, isolated) for block in blocks}
    return [by_label[label] for label in sorted(by_label)]


def _compiled(block: Block) -> str:
    described = f' description="{block.description}"' if block.description else ""
    return f'<memory label="{block.label}"{described}>\n{block.value}\n</memory>'


def turns(context: Sequence[Message]) -> list[Turn]:
    """The context without its system message, in order.

    Reasoning goes back only with the words it led to: on its own it is what a cut step left behind, and providers refuse it. They also
    refuse a call without a return: the calls of a step are followed by one return each, in the calls' order, whenever those came.
    """
    spoken = {message.step_id for message in context if message.type in _OWN_WORDS}
    call_ids = _call_ids(call for message in context for call in _calls(message))
    returned = {item.tool_call_id: item for message in context for item in _returns(message)}
    result: list[Turn] = []
    called: Message | None = None  # whose returns come as soon as its step has said all
    for message in context:
        if called is not None and not _goes_on(called, message):
            result.append(_returned(called, returned, call_ids))
            called = None
        if message.type not in _THOUGHTS or message.step_id in spoken:
            turn = _turn(message, call_ids)
            result += [] if turn is None else [turn]
        called = message if _calls(message) else called
    return result if called is None else [*result, _returned(called, returned, call_ids)]


def _goes_on(called: Message, message: Message) -> bool:
    return message.step_id == called.step_id and message.type in _THOUGHTS | {MessageType.ASSISTANT}


def _call_ids(calls: Iterable[ToolCall]) -> dict[str, str]:
    """The provider's own where every other provider would take it, too: some count from 0 in each answer, some put in the tool's name."""
    given: dict[str, str] = {}
    taken: set[str] = set()
    for call in calls:
        wanted = call.provider_call_id or ""
        given[call.id] = wanted if _ANYWHERE.fullmatch(wanted) and wanted not in taken else call.id
        taken.add(given[call.id])
    return given


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.body.tool_calls if isinstance(message.body, ToolCallBody) and message.type is MessageType.TOOL_CALL else ()


def _returns(message: Message) -> tuple[ToolReturn, ...]:
    return message.body.tool_returns if isinstance(message.body, ToolReturnBody) else ()


def _turn(message: Message, call_ids: Mapping[str, str]) -> Turn | None:
    match message.type, message.body:
        case MessageType.USER, UserBody(content=content, sender=sender):
            return UserTurn(content, sender)
        case MessageType.SYSTEM, _:
            return SystemTurn(message.text)
        case MessageType.SUMMARY, _:
            return UserTurn((TextPart(f"{_SUMMARY_FOLLOWS}\n\n{message.text}"),))
        case MessageType.ASSISTANT, PlainBody() as body:
            return AssistantTurn(message.text, body) if message.text else None
        case _, (ReasoningBody() | HiddenReasoningBody()) as body:
            return ReasoningTurn(message.text, body)
        case MessageType.TOOL_CALL, ToolCallBody(tool_calls=calls):
            return ToolCallTurn(tuple(CalledTool(call_ids[call.id], call.name, call.arguments_text) for call in calls))
        case _:
            return None


def _returned(called: Message, returned: Mapping[str, ToolReturn], call_ids: Mapping[str, str]) -> ToolReturnTurn:
    items = [(call, returned.get(call.id)) for call in _calls(called)]
    return ToolReturnTurn(
        tuple(
            ReturnedTool(call_ids[call.id], call.name, ToolReturnStatus.ERROR, _NEVER_ANSWERED)
            if item is None
            else ReturnedTool(call_ids[call.id], item.name, item.status, item.output)
            for call, item in items
        )
    )
