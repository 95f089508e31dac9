"""What a call's events come to, for tests that ask for the outcome; reading checks that the stream keeps its contract."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from llm.model import (
    Delta,
    Failed,
    Finished,
    HiddenReasoning,
    Model,
    ModelEvent,
    ModelRequest,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
    ToolDefinition,
    Turn,
    UserTurn,
)
from vocabulary.messages import TextPart
from vocabulary.model_settings import ModelSettings
from vocabulary.text import storable

CLOCK = ToolDefinition("clock", "Tells the time.", {"type": "object", "properties": {"zone": {"type": "string"}}})


def request(
    *history: Turn | str, system: str = "Be brief.", tools: Sequence[ToolDefinition] = (), settings: ModelSettings | None = None
) -> ModelRequest:
    """A string is what the user says."""
    turns = [UserTurn((TextPart(turn),)) if isinstance(turn, str) else turn for turn in history]
    return ModelRequest(system=system, history=turns, tools=tools, settings=settings or ModelSettings())


@dataclass(slots=True)
class Part:
    started: ModelEvent
    deltas: list[str] = field(default_factory=list[str])
    ended: ModelEvent | None = None

    @property
    def text(self) -> str:
        return "".join(self.deltas)


@dataclass(slots=True)
class Answered:
    """`parts` in the order they started; hidden reasoning has no start and no deltas."""

    events: list[ModelEvent]
    parts: dict[int, Part]
    end: Finished | Failed

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts.values() if isinstance(part.started, TextStarted))

    @property
    def reasoning(self) -> list[Part]:
        return [part for part in self.parts.values() if isinstance(part.started, ReasoningStarted)]

    @property
    def hidden(self) -> list[HiddenReasoning]:
        return [event for event in self.events if isinstance(event, HiddenReasoning)]

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Name and arguments."""
        return [(part.started.name, part.text) for part in self.parts.values() if isinstance(part.started, ToolCallStarted)]

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        assert isinstance(self.end, Failed), self.end
        return self.end


async def answer(model: Model, asked: ModelRequest) -> Answered:
    async with aclosing(model.stream(asked)) as events:
        return read([event async for event in events])


END_OF: dict[type[ModelEvent], type[ModelEvent]] = {
    TextStarted: TextEnded,
    ReasoningStarted: ReasoningEnded,
    ToolCallStarted: ToolCallEnded,
}


def read(events: list[ModelEvent]) -> Answered:
    """Each part started once, grown only while open, ended once with its own kind of end; one terminal event, at the end."""
    parts: dict[int, Part] = {}
    *before, end = events
    assert isinstance(end, Finished | Failed)
    for event in before:
        match event:
            case TextStarted() | ReasoningStarted() | ToolCallStarted() | HiddenReasoning():
                assert event.index not in parts
                parts[event.index] = Part(event, ended=event if isinstance(event, HiddenReasoning) else None)
            case Delta():
                assert parts[event.index].ended is None
                assert event.text
                assert event.text == storable(event.text)
                parts[event.index].deltas.append(event.text)
            case TextEnded() | ReasoningEnded() | ToolCallEnded():
                assert parts[event.index].ended is None
                assert END_OF[type(parts[event.index].started)] is type(event)
                parts[event.index].ended = event
            case Finished() | Failed():
                raise AssertionError("two ends")
    if isinstance(end, Finished):
        assert all(part.ended for part in parts.values())
    assert sum(isinstance(part.started, TextStarted | ReasoningStarted) and part.ended is None for part in parts.values()) <= 1
    return Answered(events, parts, end)
