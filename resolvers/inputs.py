"""What mutations are given, checked against its documented ranges and turned into the engine's requests.

Everything is refused by the name of the argument, and before anything is stored. Absent and null are the same here: the default.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any, TypeVar

import orjson

from resolvers.arguments import MAX_NAME, MAX_TEXT, BadUserInput, amount, number, optional_number, optional_text, text, well_formed
from resolvers.context import NotFound
from runs.agents import NewAgent, NewBlock
from runs.conversations import NewConversation
from runs.send import NewMessage, Send
from schema.inputs import (
    AgentToolInput,
    BlockInput,
    ContentPartInput,
    CreateAgentInput,
    CreateConversationInput,
    ImageInput,
    MessageInput,
    ModelSettingsInput,
    SendMessageInput,
)
from vocabulary.conversations import AgentTool
from vocabulary.ids import Noun
from vocabulary.messages import ContentPart, ImagePart, InputRole, TextPart
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import BusyPolicy

MAX_MESSAGES = 100
MAX_STEPS = 1000
MAX_WAIT_S = 600

_MAX_BLOCKS = 100
_MAX_TOOLS = 100
_MAX_PARTS = 100
_MAX_DESCRIPTION = 10_000
_MAX_LINK = 8192
_MAX_DATA_URL = 5_000_000
_MAX_INT = 2**31 - 1
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MEDIA_TYPE = re.compile(r"[a-z]+/[A-Za-z0-9.+-]+")

Request = TypeVar("Request", NewConversation, Send)


# ---- agents


def new_agent(given: CreateAgentInput) -> NewAgent:
    if not given.name.strip():
        raise BadUserInput("input.name", "must not be empty")
    return NewAgent(
        name=text("input.name", given.name, at_most=MAX_NAME),
        description=optional_text("input.description", given.description, at_least=0, at_most=_MAX_DESCRIPTION),
        instructions=text("input.instructions", given.instructions or "", at_least=0, at_most=MAX_TEXT),
        model=optional_text("input.model", given.model),
        model_settings=_settings("input.modelSettings", given.model_settings),
        blocks=_blocks(given.blocks or []),
        tools=_tools(given.tools or []),
    )


def _blocks(given: Sequence[BlockInput]) -> tuple[NewBlock, ...]:
    amount("input.blocks", len(given), "blocks", 0, _MAX_BLOCKS)
    _unique("input.blocks", "label", (block.label for block in given))
    return tuple(_block(f"input.blocks[{i}]", block) for i, block in enumerate(given))


def _block(path: str, given: BlockInput) -> NewBlock:
    if not _LABEL.fullmatch(given.label):
        raise BadUserInput(f"{path}.label", "must be 1 to 64 letters, digits or any of _ - .")
    limit = number(f"{path}.limit", 5000 if given.limit is None else given.limit, 1, MAX_TEXT)
    return NewBlock(
        label=given.label,
        value=text(f"{path}.value", given.value, at_least=0, at_most=limit),
        description=optional_text(f"{path}.description", given.description, at_least=0, at_most=_MAX_DESCRIPTION),
        limit=limit,
        read_only=bool(given.read_only),
    )


def _tools(given: Sequence[AgentToolInput]) -> tuple[AgentTool, ...]:
    amount("input.tools", len(given), "tools", 0, _MAX_TOOLS)
    _unique("input.tools", "name", (tool.name for tool in given))
    return tuple(
        AgentTool(name=text(f"input.tools[{i}].name", tool.name, at_most=MAX_NAME), requires_approval=tool.requires_approval)
        for i, tool in enumerate(given)
    )


def _unique(path: str, field: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for i, value in enumerate(values):
        if value in seen:
            raise BadUserInput(f"{path}[{i}].{field}", "is there twice")
        seen.add(value)


def _settings(path: str, given: ModelSettingsInput | None) -> ModelSettings:
    if given is None:
        return ModelSettings()
    return ModelSettings(
        temperature=optional_number(f"{path}.temperature", given.temperature, 0.0, 2.0),
        top_p=optional_number(f"{path}.topP", given.top_p, 0.0, 1.0),
        max_output_tokens=optional_number(f"{path}.maxOutputTokens", given.max_output_tokens, 1, _MAX_INT),
        context_window=optional_number(f"{path}.contextWindow", given.context_window, 1, _MAX_INT),
        reasoning_effort=given.reasoning_effort,
        parallel_tool_calls=given.parallel_tool_calls,
    )


# ---- conversations


def new_conversation(given: CreateConversationInput) -> NewConversation:
    if not well_formed(given.agent_id, Noun.AGENT):
        raise NotFound(given.agent_id)
    request = NewConversation(
        agent_id=given.agent_id,
        summary=optional_text("input.summary", given.summary, at_least=0, at_most=_MAX_DESCRIPTION),
        model=optional_text("input.model", given.model),
        model_settings=None if given.model_settings is None else _settings("input.modelSettings", given.model_settings),
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return _hashed(request)


# ---- messages


def send_request(given: SendMessageInput) -> Send:
    if not well_formed(given.conversation_id, Noun.CONVERSATION):
        raise NotFound(given.conversation_id)
    amount("input.messages", len(given.messages), "messages", 1, MAX_MESSAGES)
    request = Send(
        conversation_id=given.conversation_id,
        messages=tuple(_message(f"input.messages[{i}]", message) for i, message in enumerate(given.messages)),
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
        group_id=optional_text("input.groupId", given.group_id),
        when_busy=given.when_busy or BusyPolicy.ENQUEUE,
        max_steps=number("input.maxSteps", 50 if given.max_steps is None else given.max_steps, 1, MAX_STEPS),
        override_model=optional_text("input.overrideModel", given.override_model),
        override_model_settings=_settings("input.overrideModelSettings", given.override_model_settings),
        override_system=optional_text("input.overrideSystem", given.override_system, at_least=0, at_most=MAX_TEXT),
    )
    return _hashed(request)


def wait_s(given: SendMessageInput) -> int:
    return number("input.waitSeconds", given.wait_seconds or 0, 0, MAX_WAIT_S)


def _message(path: str, given: MessageInput) -> NewMessage:
    role = given.role or InputRole.USER
    content = _content(path, given)
    if role is InputRole.SYSTEM and not all(isinstance(part, TextPart) for part in content):
        raise BadUserInput(f"{path}.content", "of a SYSTEM message must be text")
    if role is InputRole.SYSTEM and given.sender is not None:
        raise BadUserInput(f"{path}.sender", "is for USER messages")
    return NewMessage(
        role=role,
        content=content,
        client_message_id=optional_text(f"{path}.clientMessageId", given.client_message_id),
        sender=optional_text(f"{path}.sender", given.sender),
    )


def _content(path: str, given: MessageInput) -> tuple[ContentPart, ...]:
    if (given.text is None) == (given.content is None):
        raise BadUserInput(f"{path}.text", "or content must be given, and not both")
    if given.text is not None:
        return (TextPart(text(f"{path}.text", given.text, at_most=MAX_TEXT)),)
    parts = given.content or []
    amount(f"{path}.content", len(parts), "pieces", 1, _MAX_PARTS)
    content = tuple(_part(f"{path}.content[{i}]", part) for i, part in enumerate(parts))
    amount(f"{path}.content", sum(len(part.text) for part in content if isinstance(part, TextPart)), "characters", 0, MAX_TEXT)
    return content


def _part(path: str, given: ContentPartInput) -> ContentPart:
    if given.image is not None:
        return _image(f"{path}.image", given.image)
    return TextPart(text(f"{path}.text", given.text or "", at_most=MAX_TEXT))


def _image(path: str, given: ImageInput) -> ImagePart:
    is_data = given.url.startswith("data:image/")
    if not (is_data or given.url.startswith(("https://", "http://"))):
        raise BadUserInput(f"{path}.url", "must begin with https://, http:// or data:image/")
    if given.media_type is not None and not (_MEDIA_TYPE.fullmatch(given.media_type) and len(given.media_type) <= MAX_NAME):
        raise BadUserInput(f"{path}.mediaType", "must be a media type such as image/png")
    return ImagePart(text(f"{path}.url", given.url, at_most=_MAX_DATA_URL if is_data else _MAX_LINK), given.media_type)


# ---- retries


def _hashed(request: Request) -> Request:
    """With the hash by which a retry is told from another request under the same key. Defaults that were spelled out change nothing."""
    body: dict[str, Any] = {key: value for key, value in asdict(request).items() if key not in ("idempotency_key", "body_hash")}
    return replace(request, body_hash=sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest())
