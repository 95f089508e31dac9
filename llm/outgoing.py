"""Our request in pydantic-ai's words: history, tools and settings. What a provider must not see is left out here, and what it
insists on is seen to, whatever the history was left like: a first word of the user's, a return for each call, nothing blank.

Reasoning goes back only to the provider that made it and only when something follows it in the same answer: elsewhere it
would be refused, or shown to the model as if it had said it aloud. The chat-completions protocol knows no reasoning from
earlier exchanges; servers that want it back want it while a tool's return is being answered.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from llm.images import MISSING
from llm.incoming import SIGNATURE
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
from vocabulary.messages import ContentPart, HiddenReasoningBody, PlainBody, ReasoningBody, TextPart, ToolReturnStatus
from vocabulary.model_settings import ModelSettings, ReasoningEffort

LONGEST_NAME = 64

_LAST_USAGE_COUNTS: dict[str, Any] = {"openai_continuous_usage_stats": True, "extra_body": {"stream_options": {"include_usage": True}}}
"""Some servers tell with each piece what the answer took so far, which must not be added up. It is not asked for: others refuse that."""

# ---- history

_Said = AssistantTurn | ReasoningTurn | ToolCallTurn


_CUT_OFF = UserTurn((TextPart("(What was said before is left out.)"),))
_SAID_NOTHING = (TextPart("(An empty message.)"),)
_GO_ON = "(Go on.)"
_NO_RETURN = "Nothing is known of what became of this call."


def messages(request: ModelRequest, model: ProviderModel, protocol: Protocol) -> list[ModelMessage]:
    """The history as alternating requests and responses, a request first and last."""
    told: list[ModelMessage] = []
    asked: list[CalledTool] = []
    for by_model, turns in _exchanges(_presentable(request.history, model.system, protocol)):
        if by_model:
            told.append(_response(turns, model))
            asked = [call for turn in turns if isinstance(turn, ToolCallTurn) for call in turn.calls]
        else:
            parts = [*_returns(turns, asked), *_words(turns, model, protocol)]
            told.append(ProviderRequest(parts=parts or [UserPromptPart(_GO_ON)]))
            asked = []
    return told


def _exchanges(turns: Sequence[Turn]) -> Iterator[tuple[bool, list[Turn]]]:
    groups = [(by_model, list(group)) for by_model, group in groupby(turns, lambda turn: isinstance(turn, _Said))]
    if not groups or groups[0][0]:
        yield False, [_CUT_OFF]
    yield from groups
    if groups and groups[-1][0]:
        yield False, []  # the last word is never the model's own; its calls may lack their returns


def _presentable(history: Sequence[Turn], provider: str, protocol: Protocol) -> list[Turn]:
    history = [turn for turn in map(_without_blanks, history) if turn is not None]
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


def _without_blanks(turn: Turn) -> Turn | None:
    """Models write a line break before a call, and are refused when it comes back; a user's word keeps its place."""
    match turn:
        case UserTurn(content):
            kept = tuple(part for part in content if not isinstance(part, TextPart) or part.text.strip())
            return replace(turn, content=kept or _SAID_NOTHING)
        case AssistantTurn(text) | SystemTurn(text):
            return turn if text.strip() else None
        case _:
            return turn


def _returns(turns: Sequence[Turn], asked: Sequence[CalledTool]) -> list[ModelRequestPart]:
    """One for each call, in the calls' order, before all words."""
    given = {item.call_id: item for turn in turns if isinstance(turn, ToolReturnTurn) for item in turn.returns}
    return [_tool_return(call, given.get(call.call_id)) for call in asked]


def _words(turns: Sequence[Turn], model: ProviderModel, protocol: Protocol) -> list[ModelRequestPart]:
    """What user and system say, in its order.

    The chat templates of compatible servers know system text only at the top, and want user and assistant to take turns: there
    all of it is one message of the user's.
    """
    together = protocol is Protocol.CHAT_COMPLETIONS
    inline = model.profile.get("supports_inline_system_prompts", False) and not together
    parts: list[ModelRequestPart] = []
    words: list[ContentPart] = []
    for turn in turns:
        if isinstance(turn, SystemTurn) and inline:
            parts.append(SystemPromptPart(turn.text))
        elif isinstance(turn, UserTurn | SystemTurn):
            said = turn.content if isinstance(turn, UserTurn) else (TextPart(f"<system>{turn.text}</system>"),)
            words += said
            parts += [] if together else [UserPromptPart(_content(said))]
    return [UserPromptPart(_content(_joined(words)))] if together and words else parts


def _joined(words: Sequence[ContentPart]) -> Sequence[ContentPart]:
    """Texts alone are one text: not every server takes a list."""
    texts = [part.text for part in words if isinstance(part, TextPart)]
    return (TextPart("\n\n".join(texts)),) if len(texts) == len(words) else words


def _content(parts: Sequence[ContentPart]) -> str | list[UserContent]:
    match parts:
        case [TextPart(text)]:
            return text
        case _:
            return [_content_part(part) for part in parts]


def _content_part(part: ContentPart) -> UserContent:
    if isinstance(part, TextPart):
        return part.text
    if not part.url.startswith("data:"):
        return ImageUrl(part.url, media_type=part.media_type)
    try:
        return BinaryContent.from_data_uri(part.url)
    except ValueError:  # not base64
        return MISSING.text


def _tool_return(call: CalledTool, returned: ReturnedTool | None) -> ToolReturnPart:
    succeeded = returned is not None and returned.status is ToolReturnStatus.SUCCESS
    output = _NO_RETURN if returned is None else returned.output
    return ToolReturnPart(_name(call.name), output, call.call_id, outcome="success" if succeeded else "failed")


def _response(turns: Sequence[Turn], model: ProviderModel) -> ModelResponse:
    parts: list[ModelResponsePart] = []
    for turn in turns:
        match turn:
            case AssistantTurn():
                parts.append(_text(turn.text, turn.body, model.system))
            case ReasoningTurn():
                parts.append(_thinking(turn.text, turn.body))
            case ToolCallTurn():
                parts += map(_tool_call, turn.calls)
            case UserTurn() | SystemTurn() | ToolReturnTurn():
                raise AssertionError("a request's turn among a response's")
            case _:
                assert_never(turn)
    return ModelResponse(parts=parts, provider_name=model.system, canonical_system=model.canonical_system)


def _text(text: str, body: PlainBody, provider: str) -> ProviderText:
    if body.signature is None or body.provider_name != provider:
        return ProviderText(text)
    return ProviderText(text, provider_name=body.provider_name, provider_details={SIGNATURE: body.signature})


def _thinking(text: str, body: ReasoningBody | HiddenReasoningBody) -> ThinkingPart:
    """Undoes what `incoming` did to a thinking part: its id and details share `provider_details`."""
    kept = body.provider_details or {}
    return ThinkingPart(
        text, id=kept.get("id"), signature=body.signature, provider_name=body.provider_name, provider_details=kept.get("details")
    )


def _tool_call(call: CalledTool) -> ToolCallPart:
    return ToolCallPart(_name(call.name), call.arguments_text, call.call_id)


def _name(name: str) -> str:
    """A model may call what cannot be the name of anything; all providers refuse it when it comes back."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:LONGEST_NAME] or "_"


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
        **(_LAST_USAGE_COUNTS if protocol is Protocol.CHAT_COMPLETIONS else {}),
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
