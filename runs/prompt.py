"""What a model is told: the compiled system prompt, and messages as provider-neutral turns. Pure."""

from collections.abc import Iterable, Sequence

from llm.model import AssistantTurn, CalledTool, ReasoningTurn, ReturnedTool, SystemTurn, ToolCallTurn, ToolReturnTurn, Turn, UserTurn
from vocabulary.conversations import Block
from vocabulary.messages import (
    HiddenReasoningBody,
    Message,
    MessageType,
    ReasoningBody,
    TextPart,
    ToolCall,
    ToolCallBody,
    ToolReturn,
    ToolReturnBody,
    UserBody,
)

_SUMMARY_FOLLOWS = "The conversation has been going on for longer than can be shown. This is a summary of what was said before:"
_OWN_WORDS = frozenset({MessageType.ASSISTANT, MessageType.TOOL_CALL})


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

    Reasoning goes back only with the words it led to: on its own it is what a cut step left behind, and providers refuse it.
    """
    spoken = {message.step_id for message in context if message.type in _OWN_WORDS}
    call_ids = {call.id: call.provider_call_id or call.id for message in context for call in _calls(message)}
    return [
        turn
        for message in context
        if message.type not in (MessageType.REASONING, MessageType.HIDDEN_REASONING) or message.step_id in spoken
        if (turn := _turn(message, call_ids)) is not None
    ]


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.body.tool_calls if isinstance(message.body, ToolCallBody) and message.type is MessageType.TOOL_CALL else ()


def _turn(message: Message, call_ids: dict[str, str]) -> Turn | None:
    match message.type, message.body:
        case MessageType.USER, UserBody(content=content, sender=sender):
            return UserTurn(content, sender)
        case MessageType.SYSTEM, _:
            return SystemTurn(message.text)
        case MessageType.SUMMARY, _:
            return UserTurn((TextPart(f"{_SUMMARY_FOLLOWS}\n\n{message.text}"),))
        case MessageType.ASSISTANT, _:
            return AssistantTurn(message.text) if message.text else None
        case _, (ReasoningBody() | HiddenReasoningBody()) as body:
            return ReasoningTurn(message.text, body)
        case MessageType.TOOL_CALL, ToolCallBody(tool_calls=calls):
            return ToolCallTurn(tuple(CalledTool(call_ids[call.id], call.name, call.arguments_text) for call in calls))
        case _, ToolReturnBody(tool_returns=returns):
            return ToolReturnTurn(tuple(_returned(item, call_ids) for item in returns))
        case _:
            return None


def _returned(item: ToolReturn, call_ids: dict[str, str]) -> ReturnedTool:
    return ReturnedTool(call_ids.get(item.tool_call_id, item.tool_call_id), item.name, item.status, item.output)
