"""What sending is given, checked against its documented ranges and turned into the engine's request. Null means the default, too."""

import re
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Sequence
from urllib.parse import urlsplit

import orjson

from resolvers.arguments import MAX_DESCRIPTION, MAX_NAME, MAX_TEXT, BadUserInput, amount, number, optional_text, text, unique, well_formed
from resolvers.context import NotFound
from resolvers.inputs.retries import hashed
from resolvers.inputs.settings import model_settings
from runs.commands.send import NewMessage, Send
from runs.tools.allowance import allowance
from runs.tools.schemas import flaw
from schema.inputs.sending import ClientToolInput, ContentPartInput, ImageInput, MessageInput, SendMessageInput
from vocabulary.ids import Noun
from vocabulary.messages import ContentPart, ImagePart, InputRole, TextPart
from vocabulary.runs import BusyPolicy, ClientTool
from vocabulary.text import DEEPEST_JSON, has_storable_numbers, is_too_deep, storable_json

MAX_MESSAGES = 100
MAX_STEPS = 1000
MAX_WAIT_S = 600
_MAX_PARTS = 100
_MAX_TOOLS = 100
_MAX_PARAMETERS = 64 << 10
_LONGEST_CHECK_S = 1.0  # of all tools of a request, in CPU time
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_LINK = 8192
_MAX_DATA_URL = 5_000_000
_DATA_URL = re.compile(r"data:(image/[A-Za-z0-9.+-]+);base64")
_MEDIA_TYPE = re.compile(r"image/[A-Za-z0-9.+-]+")


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
        override_model_settings=model_settings("input.overrideModelSettings", given.override_model_settings),
        override_system=optional_text("input.overrideSystem", given.override_system, at_least=0, at_most=MAX_TEXT),
        client_tools=_client_tools(given.client_tools or []),
    )
    return hashed(request)


def wait_s(given: SendMessageInput) -> int:
    return number("input.waitSeconds", given.wait_seconds or 0, 0, MAX_WAIT_S)


def _client_tools(given: Sequence[ClientToolInput]) -> tuple[ClientTool, ...]:
    amount("input.clientTools", len(given), "tools", 0, _MAX_TOOLS)
    unique((f"input.clientTools[{i}].name", tool.name) for i, tool in enumerate(given))
    with allowance(_LONGEST_CHECK_S):
        return tuple(_client_tool(f"input.clientTools[{i}]", tool) for i, tool in enumerate(given))


def _client_tool(path: str, given: ClientToolInput) -> ClientTool:
    if not _TOOL_NAME.fullmatch(given.name):
        raise BadUserInput(f"{path}.name", "must be 1 to 64 letters, digits or any of _ -")
    if is_too_deep(given.parameters):
        raise BadUserInput(f"{path}.parameters", f"must not be nested deeper than {DEEPEST_JSON} levels")
    if not has_storable_numbers(given.parameters):
        raise BadUserInput(f"{path}.parameters", "must hold only finite numbers, and integers of at most 64 bits")
    parameters = storable_json(given.parameters)
    amount(f"{path}.parameters", len(orjson.dumps(parameters)), "bytes", 0, _MAX_PARAMETERS)
    if (why := flaw(parameters)) is not None:
        raise BadUserInput(f"{path}.parameters", why)
    return ClientTool(
        name=given.name,
        description=text(f"{path}.description", given.description, at_least=0, at_most=MAX_DESCRIPTION),
        parameters=parameters,
        requires_approval=bool(given.requires_approval),
    )


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
    """What no provider could read would stay in the conversation, and break each of its later runs. What is blind to case comes lower."""
    scheme, _, rest = given.url.partition(":")
    is_data = scheme.lower() == "data"
    if not (is_data or (scheme.lower() in ("https", "http") and rest.startswith("//"))):
        raise BadUserInput(f"{path}.url", "must begin with https://, http:// or data:image/")
    url = text(f"{path}.url", f"{scheme.lower()}:{rest}", at_most=_MAX_DATA_URL if is_data else _MAX_LINK)
    kind = None if given.media_type is None else given.media_type.lower()
    if kind is not None and not (_MEDIA_TYPE.fullmatch(kind) and len(kind) <= MAX_NAME):
        raise BadUserInput(f"{path}.mediaType", "must be that of an image, such as image/png")
    return _embedded(path, url, kind) if is_data else _linked(path, url, kind)


def _embedded(path: str, url: str, kind: str | None) -> ImagePart:
    described, _, data = url.partition(",")
    told = _kind_of_data(path, described.lower(), data)
    if kind not in (None, told):
        raise BadUserInput(f"{path}.mediaType", f"contradicts the URL, which says {told}")
    return ImagePart(f"{described.lower()},{data}", kind)


def _kind_of_data(path: str, described: str, data: str) -> str:
    try:
        told = _DATA_URL.fullmatch(described)
        if not (told and a2b_base64(data, strict_mode=True)):
            raise BadUserInput(f"{path}.url", "must be data:image/…;base64, and then an image")
    except (NotBase64, ValueError):
        raise BadUserInput(f"{path}.url", "is not in base64") from None
    return told[1]


def _linked(path: str, url: str, kind: str | None) -> ImagePart:
    try:
        parts = urlsplit(url)
        can_be_opened = bool(parts.hostname) and parts.port != 0
    except ValueError:
        can_be_opened = False
    if not can_be_opened or not url.isprintable() or " " in url:
        raise BadUserInput(f"{path}.url", "must be a whole URL, with a host, no port but 1 to 65535 and without spaces")
    return ImagePart(url, kind)
