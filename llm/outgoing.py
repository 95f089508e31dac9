"""Our request in pydantic-ai's words: history, tools and settings. What a provider must not see is left out here.

Reasoning goes back only to the provider that made it and only when something follows it in the same answer: elsewhere it
would be refused, or shown to the model as if it had said it aloud. The chat-completions protocol knows no reasoning from
earlier exchanges; servers that want it back want it while a tool's return is being answered.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, assert_never, cast

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    InstructionPart,
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as ProviderRequest
from pydantic_ai.messages import TextPart as ProviderText
from pydantic_ai.models import Model as ProviderModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings as ProviderSettings
from pydantic_ai.tools import ToolDefinition as ProviderTool

from llm.endpoints import Protocol
from llm.model import (
    AssistantTurn,
    CalledTool,
    ModelRequest,
    ReasoningTurn,
    ReturnedTool,
    SystemTurn,
    ToolCallTurn,
    ToolDefinition,
    ToolReturnTurn,
    Turn,
    UserTurn,
)
from vocabulary.messages import ContentPart, HiddenReasoningBody, ReasoningBody, TextPart, ToolReturnStatus
from vocabulary.model_settings import ModelSettings, ReasoningEffort

# ---- history

_Said = AssistantTurn | ReasoningTurn | ToolCallTurn


def messages(request: ModelRequest, model: ProviderModel, protocol: Protocol) -> list[ModelMessage]:
    """The history as alternating requests and responses."""
    return [
        _response(turns, model) if by_model else ProviderRequest(parts=_request_parts(turns, model))
        for by_model, turns in _exchanges(_presentable(request.history, model.system, protocol))
    ]


def _exchanges(turns: Sequence[Turn]) -> Iterator[tuple[bool, list[Turn]]]:
    return ((by_model, list(group)) for by_model, group in groupby(turns, lambda turn: isinstance(turn, _Said)))


def _presentable(history: Sequence[Turn], provider: str, protocol: Protocol) -> list[Turn]:
    last_word = max((place for place, turn in enumerate(history) if isinstance(turn, UserTurn)), default=-1)
    forgotten = last_word if protocol is Protocol.CHAT_COMPLETIONS else -1
    return [
        turn
        for place, turn in enumerate(history)
        if not isinstance(turn, ReasoningTurn)
        or (turn.body.provider_name == provider and place > forgotten and _is_followed_up(history, place))
    ]


def _is_followed_up(history: Sequence[Turn], place: int) -> bool:
    following = next((turn for turn in history[place + 1 :] if not isinstance(turn, ReasoningTurn)), None)
    return isinstance(following, AssistantTurn | ToolCallTurn)


def _request_parts(turns: Sequence[Turn], model: ProviderModel) -> list[ModelRequestPart]:
    parts: list[ModelRequestPart] = []
    for turn in turns:
        match turn:
            case UserTurn():
                parts.append(UserPromptPart(_content(turn.content)))
            case SystemTurn():
                parts.append(_instruction(turn.text, model))
            case ToolReturnTurn():
                parts += map(_tool_return, turn.returns)
            case AssistantTurn() | ReasoningTurn() | ToolCallTurn():
                raise AssertionError("a response's turn among a request's")
            case _:
                assert_never(turn)
    return parts


def _instruction(text: str, model: ProviderModel) -> ModelRequestPart:
    """In its place in the history; a provider that knows system text only at the top gets it marked, as the user's."""
    if model.profile.get("supports_inline_system_prompts", False):
        return SystemPromptPart(text)
    return UserPromptPart(f"<system>{text}</system>")


def _content(parts: Sequence[ContentPart]) -> str | list[UserContent]:
    match parts:
        case [TextPart(text)]:
            return text
        case _:
            return [_content_part(part) for part in parts]


def _content_part(part: ContentPart) -> UserContent:
    if isinstance(part, TextPart):
        return part.text
    return BinaryContent.from_data_uri(part.url) if part.url.startswith("data:") else ImageUrl(part.url, media_type=part.media_type)


def _tool_return(returned: ReturnedTool) -> ToolReturnPart:
    outcome = "success" if returned.status is ToolReturnStatus.SUCCESS else "failed"
    return ToolReturnPart(returned.name, returned.output, returned.call_id, outcome=outcome)


def _response(turns: Sequence[Turn], model: ProviderModel) -> ModelResponse:
    parts: list[ModelResponsePart] = []
    for turn in turns:
        match turn:
            case AssistantTurn():
                parts.append(ProviderText(turn.text))
            case ReasoningTurn():
                parts.append(_thinking(turn.text, turn.body))
            case ToolCallTurn():
                parts += map(_tool_call, turn.calls)
            case UserTurn() | SystemTurn() | ToolReturnTurn():
                raise AssertionError("a request's turn among a response's")
            case _:
                assert_never(turn)
    return ModelResponse(parts=parts, provider_name=model.system, canonical_system=model.canonical_system)


def _thinking(text: str, body: ReasoningBody | HiddenReasoningBody) -> ThinkingPart:
    """Undoes what `incoming` did to a thinking part: its id and details share `provider_details`."""
    kept = body.provider_details or {}
    return ThinkingPart(
        text, id=kept.get("id"), signature=body.signature, provider_name=body.provider_name, provider_details=kept.get("details")
    )


def _tool_call(call: CalledTool) -> ToolCallPart:
    return ToolCallPart(call.name, call.arguments_text, call.call_id)


# ---- everything else


def parameters(request: ModelRequest) -> ModelRequestParameters:
    return ModelRequestParameters(
        function_tools=[_tool(tool) for tool in request.tools],
        instruction_parts=[InstructionPart(content=request.system)] if request.system else [],
    )


def _tool(tool: ToolDefinition) -> ProviderTool:
    """`strict` would rewrite the schema, or have it refused; it is somebody else's."""
    return ProviderTool(name=tool.name, description=tool.description, parameters_json_schema=tool.parameters, strict=False)


def settings(request: ModelRequest, model: ProviderModel, protocol: Protocol) -> ProviderSettings:
    given = request.settings
    chosen: dict[str, Any] = {
        "temperature": given.temperature,
        "top_p": given.top_p,
        "max_tokens": given.max_output_tokens,
        "parallel_tool_calls": given.parallel_tool_calls if request.tools else None,
        "cache": True,
        **_reasoning(given, model, protocol),
    }
    known = {name: value for name, value in chosen.items() if value is not None and name not in model.unsupported_settings}
    return cast(ProviderSettings, known)


def _reasoning(given: ModelSettings, model: ProviderModel, protocol: Protocol) -> dict[str, Any]:
    """pydantic-ai fits an effort to the models it knows and drops it for others. A server of our user's may run any: it is told."""
    effort = given.reasoning_effort
    match protocol:
        case Protocol.CHAT_COMPLETIONS:
            return {"openai_reasoning_effort": effort.lower() if effort else None}
        case Protocol.RESPONSES:
            # Nothing is kept at OpenAI; reasoning comes encrypted and is sent back. A summary must be asked for.
            summary = "auto" if effort not in (None, ReasoningEffort.NONE) and model.profile.get("supports_thinking", False) else None
            return {"thinking": _thinking_level(effort), "openai_store": False, "openai_reasoning_summary": summary}
        case Protocol.ANTHROPIC | Protocol.GOOGLE:
            return {"thinking": _thinking_level(effort)}


def _thinking_level(effort: ReasoningEffort | None) -> str | bool | None:
    if effort is ReasoningEffort.NONE:
        return False
    return effort.lower() if effort else None
