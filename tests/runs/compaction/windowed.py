"""A model with a window: it counts what it is shown, refuses what does not fit, and its summaries carry over what it was told to keep.

Words that begin with `keep-` are instructions that must never be lost. A user may give a command: `tool NAME NAME` calls those tools.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator

from llm.model import (
    AssistantTurn,
    Delta,
    Failed,
    Finished,
    Model,
    ModelEvent,
    ModelRequest,
    ReasoningTurn,
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
from llm.registry import ModelRegistry
from llm.tokens import count
from runs.compaction.summariser import ACKNOWLEDGEMENT, PROMPT
from vocabulary.messages import TextPart
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunError, RunErrorType, StopReason, Usage

KEPT = re.compile(r"keep-\w+")


def words_of(turn: Turn) -> str:
    match turn:
        case UserTurn(content):
            return "".join(part.text for part in content if isinstance(part, TextPart))
        case SystemTurn(text) | AssistantTurn(text) | ReasoningTurn(text):
            return text
        case ToolCallTurn(calls):
            return " ".join(f"{call.name} {call.arguments_text}" for call in calls)
        case ToolReturnTurn(returns):
            return " ".join(item.output for item in returns)


def size_of(request: ModelRequest) -> int:
    return count(request.system) + sum(count(words_of(turn)) + 4 for turn in request.history)


def is_for_summary(request: ModelRequest) -> bool:
    return (
        PROMPT in request.system
        or PROMPT in words_of(request.history[-1])
        or any(turn == AssistantTurn(ACKNOWLEDGEMENT) for turn in request.history)
    )


def kept_in(request: ModelRequest) -> set[str]:
    return {word for turn in request.history for word in KEPT.findall(words_of(turn))}


def brief(request: ModelRequest) -> str:
    return f"They talked. {' '.join(sorted(kept_in(request)))}"


class Windowed:
    """`asked`: every request that was answered; `refused`: the sizes of those that were not. `before_summary`: waited for by summaries."""

    def __init__(self, window: int = 10**9, *, handle: str = "test/windowed", summary: Callable[[ModelRequest], str] = brief) -> None:
        self._handle = handle
        self.window = window
        self.summary = summary
        self.before_summary: asyncio.Event | None = None
        self.summarising = asyncio.Event()
        self.asked: list[ModelRequest] = []
        self.refused: list[int] = []

    @property
    def handle(self) -> str:
        return self._handle

    @property
    def answers(self) -> list[ModelRequest]:
        return [request for request in self.asked if not is_for_summary(request)]

    @property
    def summaries(self) -> list[ModelRequest]:
        return [request for request in self.asked if is_for_summary(request)]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        size = size_of(request)
        if size > self.window:
            self.refused.append(size)
            yield Failed(RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, f"{size} is too long."), Usage(requests=1))
            return
        self.asked.append(request)
        if is_for_summary(request):
            self.summarising.set()
            if self.before_summary is not None:
                await self.before_summary.wait()
        for event in self._said(request):
            yield event
        yield Finished(Usage(input_tokens=size, output_tokens=5, requests=1), StopReason.END_TURN)

    def _said(self, request: ModelRequest) -> Iterator[ModelEvent]:
        last = words_of(request.history[-1])
        if is_for_summary(request):
            yield from _text(self.summary(request))
        elif isinstance(request.history[-1], UserTurn) and last.startswith("tool "):
            for index, name in enumerate(last.split()[1:]):
                yield ToolCallStarted(index, name, None)
                yield Delta(index, "{}")
                yield ToolCallEnded(index)
        else:
            yield from _text(f"I heard {last[:40]}")


def _text(text: str) -> Iterator[ModelEvent]:
    yield TextStarted(0)
    if text:
        yield Delta(0, text)
    yield TextEnded(0)


class WindowedModels(ModelRegistry):
    """These, whose windows are known, or held for what is said of them, and what every registry has."""

    def __init__(self, *mine: Windowed, told: int | None = None) -> None:
        super().__init__(demo_delay_ms=0)
        self._mine = {model.handle: model for model in mine}
        self._told = told

    def resolve(self, handle: str) -> Model:
        return self._mine.get(handle) or super().resolve(handle)

    def window(self, handle: str, settings: ModelSettings) -> int:
        if handle in self._mine and settings.context_window is None:
            return self._told or self._mine[handle].window
        return super().window(handle, settings)
