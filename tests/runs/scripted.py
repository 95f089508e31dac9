"""Models that say what a test tells them, when it tells them, and a registry that knows them beside the demo's."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from llm.model import (
    Delta,
    Failed,
    Finished,
    Model,
    ModelEvent,
    ModelInfo,
    ModelRequest,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
)
from llm.registry import ModelRegistry
from vocabulary.messages import ReasoningBody
from vocabulary.runs import RunError, RunErrorType, StopReason, Usage

USAGE = Usage(input_tokens=3, output_tokens=2, requests=1)

Cue = ModelEvent | asyncio.Event | Callable[[], None] | BaseException
"""What a script holds: an event is said, a gate is waited for, a function is called, an exception is raised."""


def text(*pieces: str, index: int = 0) -> list[Cue]:
    return [TextStarted(index), *(Delta(index, piece) for piece in pieces), TextEnded(index)]


def reasoning(*pieces: str, index: int = 0) -> list[Cue]:
    return [ReasoningStarted(index), *(Delta(index, piece) for piece in pieces), ReasoningEnded(index, ReasoningBody(signature="signed"))]


def call(name: str, *arguments: str, index: int = 0) -> list[Cue]:
    return [ToolCallStarted(index, name, f"given-{index}"), *(Delta(index, piece) for piece in arguments), ToolCallEnded(index)]


def finished(stop_reason: StopReason = StopReason.END_TURN) -> list[Cue]:
    return [Finished(USAGE, stop_reason)]


def failed(kind: RunErrorType = RunErrorType.LLM_ERROR) -> list[Cue]:
    return [Failed(RunError(kind, "It broke."), USAGE)]


class Scripted:
    """One script per call, in their order; with none left it says "Done.".

    `requests`: what it was asked. `left`: set when somebody hung up.
    """

    def __init__(self, *scripts: Sequence[Cue], handle: str = "test/scripted") -> None:
        self._handle = handle
        self._scripts = deque(scripts)
        self.requests: list[ModelRequest] = []
        self.left = asyncio.Event()

    @property
    def handle(self) -> str:
        return self._handle

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        self.requests.append(request)
        try:
            for cue in self._scripts.popleft() if self._scripts else [*text("Done."), *finished()]:
                if isinstance(cue, asyncio.Event):
                    await cue.wait()
                elif isinstance(cue, BaseException):
                    raise cue
                elif callable(cue):
                    cue()
                else:
                    yield cue
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


class Models(ModelRegistry):
    """These, and what every registry has."""

    def __init__(self, *mine: Model) -> None:
        super().__init__(demo_delay_ms=0)
        self._mine = {model.handle: model for model in mine}

    def resolve(self, handle: str) -> Model:
        return self._mine.get(handle) or super().resolve(handle)

    def info(self, handle: str) -> ModelInfo:
        """They have all the room they want, so that nothing is compacted that a test knows nothing of."""
        return (
            replace(super().info("demo/echo"), handle=handle, context_window=1_000_000_000)
            if handle in self._mine
            else super().info(handle)
        )


def gated(*pieces: str, index: int = 0) -> tuple[list[Cue], list[asyncio.Event]]:
    """A text whose pieces come one by one, each but the first when its gate is opened; the last gate is before its end."""
    gates = [asyncio.Event() for _ in pieces]
    started, *deltas, ended = text(*pieces, index=index)
    return [started, *(cue for delta, gate in zip(deltas, gates, strict=True) for cue in (delta, gate)), ended], gates
