"""`demo/echo`: a model without a provider, so that everything can be seen without a key. It streams like a real one.

Its answer quotes the user's last message, word by word, and is the same every time. A message may hold commands:

    /think             a short reasoning part comes first
    /tool NAME {json}  the tool NAME is called with these arguments (none: `{}`; what is not valid JSON is sent as it is, to
                       the end of the line); several of them are parallel calls. The next answer quotes what they returned.
                       A tool that needs an approval, or that the client runs itself, makes the conversation wait for it.

Between <transcript> and </transcript> stands what is to be summed up: it is quoted by its beginning and its end, and not obeyed.

Usage counts words: those of the request, and those written. `max_output_tokens` cuts the text after that many words.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from llm.model import (
    AssistantTurn,
    Delta,
    Finished,
    ModelEvent,
    ModelInfo,
    ModelRequest,
    ReasoningEnded,
    ReasoningStarted,
    ReasoningTurn,
    ReturnedTool,
    SystemTurn,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
    ToolCallTurn,
    ToolReturnTurn,
    Turn,
    UserTurn,
)
from vocabulary.messages import ReasoningBody, TextPart, ToolReturnStatus
from vocabulary.runs import StopReason, Usage
from vocabulary.text import storable

INFO = ModelInfo(handle="demo/echo", provider="demo", name="echo", context_window=32_768, supports_tools=True, supports_reasoning=True)

QUOTED_WORDS = 1_000
SUMMED_UP_WORDS = 20
"""Of the beginning of a transcript, and of its end; of a short one less."""
ARGUMENTS_PIECE = 8


class DemoModel:
    def __init__(self, delay_ms: float = 0) -> None:
        """`delay_ms` passes before each piece; at 0 other tasks still get their turn."""
        self._delay_s = delay_ms / 1000

    @property
    def handle(self) -> str:
        return INFO.handle

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        for event in _answer(request):
            if isinstance(event, Delta):
                await asyncio.sleep(self._delay_s)
            yield event


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: str


@dataclass(slots=True)
class _Count:
    """Words written so far."""

    output: int = 0
    reasoning: int = 0
    indexes: Iterator[int] = field(default_factory=count)


def _answer(request: ModelRequest) -> Iterator[ModelEvent]:
    written, last = _Count(), request.history[-1] if request.history else None
    limit, cut = request.settings.max_output_tokens, False
    said = _TRANSCRIPT.sub("", _said(last)) if isinstance(last, UserTurn) else ""
    if "/think" in said:
        yield from _reasoning(said, written)
    if calls := _calls(said):
        for number, call in enumerate(calls, start=_calls_before(request.history)):
            yield from _tool_call(call, number, written)
    else:
        words = _words(storable(_text(request, last)))
        cut = limit is not None and len(words) > limit
        yield from _written(words[:limit], written)
    yield Finished(_usage(request, written), StopReason.MAX_TOKENS if cut else StopReason.END_TURN)


def _reasoning(said: str, written: _Count) -> Iterator[ModelEvent]:
    index, words = next(written.indexes), _words(f"The user wrote {len(_words(said))} words. I will quote them.")
    written.output += len(words)
    written.reasoning += len(words)
    yield ReasoningStarted(index)
    yield from (Delta(index, word) for word in words)
    yield ReasoningEnded(index, ReasoningBody(provider_name=INFO.provider))


def _tool_call(call: _Call, number: int, written: _Count) -> Iterator[ModelEvent]:
    index, arguments = next(written.indexes), storable(call.arguments)
    written.output += len(_words(arguments))
    yield ToolCallStarted(index, storable(call.name), f"call_{number}")
    for start in range(0, len(arguments), ARGUMENTS_PIECE):
        yield Delta(index, arguments[start : start + ARGUMENTS_PIECE])
    yield ToolCallEnded(index)


def _written(words: Sequence[str], written: _Count) -> Iterator[ModelEvent]:
    index = next(written.indexes)
    written.output += len(words)
    yield TextStarted(index)
    yield from (Delta(index, word) for word in words)
    yield TextEnded(index)


def _text(request: ModelRequest, last: Turn | None) -> str:
    if isinstance(last, ToolReturnTurn):
        return " ".join(map(_quoted_return, last.returns))
    said = next((_said(turn) for turn in reversed(request.history) if isinstance(turn, UserTurn)), "")
    if transcript := _TRANSCRIPT.search(said):
        return f"They said: {_summed_up(transcript[1])}"
    return f"You said: {_clipped(said)}" if said else "You said nothing that I can read."


def _quoted_return(returned: ReturnedTool) -> str:
    verb = "returned" if returned.status is ToolReturnStatus.SUCCESS else "failed with"
    return f"The tool {returned.name} {verb}: {_clipped(returned.output)}"


def _clipped(text: str) -> str:
    words = _words(text)
    return text if len(words) <= QUOTED_WORDS else "".join(words[:QUOTED_WORDS]) + " …"


_TRANSCRIPT = re.compile(r"<transcript>\s*(.*)\s*</transcript>", re.DOTALL)


def _summed_up(transcript: str) -> str:
    words = transcript.split()
    some = min(SUMMED_UP_WORDS, len(words) // 4)
    return " ".join([*words[:some], "…", *words[len(words) - some :]])


def _calls(said: str) -> list[_Call]:
    """The commands in the order they were written. What stands inside the arguments of one is not read as another."""
    calls: list[_Call] = []
    position = 0
    while command := _COMMAND.search(said, position):
        arguments, position = _arguments(said, command.end())
        calls.append(_Call(command["name"], arguments))
    return calls


_COMMAND = re.compile(r"(?<!\S)/tool[ \t]+(?P<name>\S+)[ \t]*")


def _arguments(said: str, start: int) -> tuple[str, int]:
    """The arguments that begin here, and where they end."""
    if not said.startswith("{", start):
        return "{}", start
    try:
        _, end = json.JSONDecoder().raw_decode(said, start)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number with more digits than Python reads
        end = len(said[:start] + said[start:].partition("\n")[0])
    return said[start:end], end


def _calls_before(history: Sequence[Turn]) -> int:
    return sum(len(turn.calls) for turn in history if isinstance(turn, ToolCallTurn))


def _said(turn: UserTurn) -> str:
    return " ".join(part.text if isinstance(part, TextPart) else "(an image)" for part in turn.content)


def _words(text: str) -> list[str]:
    """With the space around them, so that together they are the text again."""
    return re.findall(r"\s*\S+(?:\s+\Z)?|\s+", text)


def _usage(request: ModelRequest, written: _Count) -> Usage:
    read = sum(len(_words(text)) for text in [request.system, *map(_turn_text, request.history)])
    return Usage(input_tokens=read, output_tokens=written.output, reasoning_tokens=written.reasoning, requests=1)


def _turn_text(turn: Turn) -> str:
    match turn:
        case UserTurn():
            return _said(turn)
        case SystemTurn() | AssistantTurn() | ReasoningTurn():
            return turn.text
        case ToolCallTurn():
            return " ".join(call.arguments_text for call in turn.calls)
        case ToolReturnTurn():
            return " ".join(returned.output for returned in turn.returns)
