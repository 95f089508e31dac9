"""What the model that writes a summary is asked: everything that will no longer be shown, the summary before it included. Pure.

Two forms: a transcript under the summariser's own prompt, and, in the modes in which the agent's model sums itself up, the conversation
as it stands with the prompt as one more message, so that the provider's cache of it is used once more. When that is too long for the
summariser's window, there are shorter forms: clipped tool returns, then transcripts without their middle; none that would say nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llm import tokens
from llm.model import AssistantTurn, ModelRequest, ToolDefinition, UserTurn
from runs.prompt import turns
from vocabulary.compaction import CompactionMode, CompactionSettings
from vocabulary.messages import ImagePart, Message, MessageType, TextPart, ToolCallBody, ToolReturnBody, ToolReturnStatus, UserBody
from vocabulary.model_settings import ModelSettings

SELF = frozenset({CompactionMode.SELF_COMPACT_ALL, CompactionMode.SELF_COMPACT_SLIDING_WINDOW})

PROMPT = """The beginning of a conversation between a user and an assistant is about to be removed from the assistant's memory. Write \
the summary that will stand in its place. The assistant will go on from it without having seen what it stands for, so whatever is not in \
it is lost. Write, under these headings:

Goals: what the user wants, with every standing instruction, preference and constraint, in the user's own words where they matter.
What happened: what was done, decided and found out, in order.
Identifiers: every name, number, id, path, address, date and quoted text that may be needed again, exactly as it was written.
Errors and fixes: what went wrong, why, and what helped.
Current state: what is done, what is open, and what was to be done next.

If there is an earlier summary, carry over all of it that still matters. Do not answer the conversation, do not call tools, do not \
mention that this is a summary: write nothing but the summary itself."""

ACKNOWLEDGEMENT = "Understood. I will answer with the summary and nothing else."
_NOW = "Write the summary of the conversation above now."

_LONGEST_RETURN = 1_000  # characters
_SHORTER = ((1.8, 2), (1.2, 4), (0.6, 8))
"""How long a transcript without its middle may be: so many characters for each token of the window, and no more than that part of the
whole. Prose has some four characters in a token, other scripts down to one; and a window may be smaller than is known.
"""


_LEAST_ROOM = 50
"""Tokens of the window for a transcript without its middle: less than a few sentences tells nothing that could be summed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`shown`: what is to be summed up, in order. `system` and `tools` are the conversation's, `model_settings` the summariser's."""

    shown: Sequence[Message]
    mode: CompactionMode
    settings: CompactionSettings
    model_settings: ModelSettings
    system: str
    tools: Sequence[ToolDefinition] = ()


def requests(given: Assignment, window: int) -> Iterator[ModelRequest]:
    """Each shorter than the one before. Those that are known not to fit into the window are left out, but for the last, which take what
    room the prompt leaves in it. None: it leaves too little.
    """
    clipped = replace(given, shown=[_clipped_returns(message) for message in given.shown])
    yield from (request for request in (_whole(given), _whole(clipped)) if size(request) < window)
    script, free = transcript(clipped.shown), window - size(_told(given, ""))
    if free >= _LEAST_ROOM:
        yield from (_told(given, middle_cut(script, min(round(density * free), len(script) // part))) for density, part in _SHORTER)


def size(request: ModelRequest) -> int:
    """In tokens, roughly."""
    return tokens.count(_text(request))


def length(request: ModelRequest) -> int:
    """In characters, roughly."""
    return len(_text(request))


def _text(request: ModelRequest) -> str:
    return "\n".join([request.system, *map(str, request.history), *map(str, request.tools)])


def _whole(given: Assignment) -> ModelRequest:
    return _as_it_stands(given) if given.mode in SELF else _told(given, transcript(given.shown))


def _as_it_stands(given: Assignment) -> ModelRequest:
    prompt = UserTurn((TextPart(given.settings.prompt or PROMPT),))
    history = [*turns(given.shown), *_asked(given, prompt)]
    return ModelRequest(system=given.system, history=history, tools=given.tools, settings=given.model_settings)


def _asked(given: Assignment, prompt: UserTurn) -> Sequence[UserTurn | AssistantTurn]:
    if given.settings.prompt_acknowledgement:
        return [prompt, AssistantTurn(ACKNOWLEDGEMENT), UserTurn((TextPart(_NOW),))]
    return [prompt]


def _told(given: Assignment, script: str) -> ModelRequest:
    prompt = given.settings.prompt or PROMPT
    told = UserTurn((TextPart(f"<transcript>\n{script}\n</transcript>\n\n{_NOW}"),))
    if given.settings.prompt_acknowledgement:
        agreed = [UserTurn((TextPart(prompt),)), AssistantTurn(ACKNOWLEDGEMENT), told]
        return ModelRequest(system="", history=agreed, settings=given.model_settings)
    return ModelRequest(system=prompt, history=[told], settings=given.model_settings)


def transcript(shown: Sequence[Message]) -> str:
    return "\n\n".join(line for message in shown for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    match message.type, message.body:
        case MessageType.SUMMARY, _:
            yield f"Summary of what was said before:\n{message.text}"
        case MessageType.USER, UserBody(content=content, sender=sender):
            images = " [image]" * sum(isinstance(part, ImagePart) for part in content)
            yield f"User{f' ({sender})' if sender else ''}: {message.text}{images}"
        case MessageType.SYSTEM, _:
            yield f"System: {message.text}"
        case MessageType.ASSISTANT, _ if message.text:
            yield f"Assistant: {message.text}"
        case MessageType.TOOL_CALL, ToolCallBody(tool_calls=calls):
            yield from (f"Assistant called {call.name}: {call.arguments_text}" for call in calls)
        case _, ToolReturnBody(tool_returns=returns):
            yield from (f"{item.name} {_verb(item.status)}: {item.output}" for item in returns)
        case _:
            pass


def _verb(status: ToolReturnStatus) -> str:
    return "returned" if status is ToolReturnStatus.SUCCESS else "failed"


def _clipped_returns(message: Message) -> Message:
    if not isinstance(message.body, ToolReturnBody):
        return message
    returns = tuple(replace(item, output=middle_cut(item.output, _LONGEST_RETURN)) for item in message.body.tool_returns)
    return replace(message, body=ToolReturnBody(tool_returns=returns))


def middle_cut(text: str, most: int) -> str:
    """Its beginning and its end, about so many characters together: what was asked first and what was done last matter most."""
    left_out = len(text) - most
    if left_out <= 0:
        return text
    head = most // 2
    return f"{text[:head]}\n[… {left_out} characters left out …]\n{text[head + left_out :]}"


def summariser(settings: CompactionSettings, own_model: str, *, own: bool) -> str:
    """The handle of the model that writes the summary. `own`: in a mode in which the agent's own does."""
    return own_model if own else settings.model or own_model
