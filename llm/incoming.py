"""pydantic-ai's stream events as ours: one `Incoming` per call, pure, fed with events in the order they come.

Its indexes are our own. Text and reasoning are open one at a time: the next part ends the one before, whatever pydantic-ai's
own end events say, because a signature may come after them. Tool calls grow side by side and end with the answer.
A part without anything in it is not shown.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    ModelResponsePart,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_core import to_jsonable_python

from llm.model import (
    Delta,
    HiddenReasoning,
    ModelEvent,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
)
from vocabulary.messages import HiddenReasoningBody, HiddenReasoningState, PlainBody, ReasoningBody
from vocabulary.text import Joiner, is_too_deep, storable, storable_json

REDACTED = frozenset({"redacted_thinking", "redacted_content"})
SIGNATURE = "thought_signature"
"""What pydantic-ai calls the signature of a text or a call among the details of its part. Only Gemini signs those."""


class Incoming:
    def __init__(self) -> None:
        self._parts: dict[int, _Text | _Reasoning | _ToolCall] = {}
        self._current: _Text | _Reasoning | None = None
        self._count = 0
        self.answered = False
        """Whether there is text or a tool call: reasoning alone is no answer."""

    def feed(self, event: ModelResponseStreamEvent) -> Iterator[ModelEvent]:
        match event:
            case PartStartEvent(index=place, part=part):
                yield from self._start(place, part)
            case PartDeltaEvent(index=place, delta=TextPartDelta() as delta):
                yield from self._grow(place, _Text, delta.content_delta)
                self._sign(place, delta)
            case PartDeltaEvent(index=place, delta=ThinkingPartDelta() as delta):
                yield from self._grow(place, _Reasoning, delta.content_delta or "")
                self._learn(place, delta)
            case PartDeltaEvent(index=place, delta=ToolCallPartDelta() as delta):
                yield from self._argue(place, delta.args_delta)
            case _:
                pass

    def text(self, text: str) -> Iterator[ModelEvent]:
        """A text part that comes whole."""
        yield from self._begin(_Text())
        yield from self._pushed(text)

    def close(self, *, cut: bool = False) -> Iterator[ModelEvent]:
        """Nothing more comes. `cut`: the model was stopped before it had said all."""
        yield from self._end_current()
        for call in self._parts.values():
            if isinstance(call, _ToolCall):
                yield from call.end(cut=cut)

    def _start(self, place: int, part: ModelResponsePart) -> Iterator[ModelEvent]:
        match part:
            case TextPart():
                yield from self._begin(_Text(), place)
                self._sign(place, part)
                yield from self._pushed(part.content)
            case ThinkingPart():
                yield from self._start_reasoning(place, part)
            case ToolCallPart() if not isinstance(self._parts.get(place), _ToolCall):
                yield from self._start_tool_call(place, part)
            case _:
                pass

    def _start_reasoning(self, place: int, part: ThinkingPart) -> Iterator[ModelEvent]:
        """The paragraphs of OpenAI's summaries are parts with the same id and, together, one signature: one part of ours."""
        current = self._current
        if isinstance(current, _Reasoning) and part.id is not None and part.id == current.part.id and not current.part.signature:
            self._parts[place] = current
            current.gap = "\n\n" if current.index is not None else ""
        else:
            yield from self._begin(_Reasoning(replace(part, content="")), place)
        yield from self._pushed(part.content)

    def _start_tool_call(self, place: int, part: ToolCallPart) -> Iterator[ModelEvent]:
        yield from self._end_current()
        if signature := (part.provider_details or {}).get(SIGNATURE):
            # Gemini signs the call itself and wants the signature back; pydantic-ai moves it from reasoning to what comes after it.
            yield self._hidden(
                HiddenReasoningBody(state=HiddenReasoningState.OMITTED, signature=signature, provider_name=part.provider_name)
            )
        self._parts[place] = call = _ToolCall(self._next_index())
        self.answered = True
        yield ToolCallStarted(call.index, storable(part.tool_name), storable(part.tool_call_id))
        yield from call.push(part.args)

    def _argue(self, place: int, arguments: str | dict[str, Any] | None) -> Iterator[ModelEvent]:
        call = self._parts.get(place)
        if isinstance(call, _ToolCall):
            yield from call.push(arguments)

    def _grow(self, place: int, kind: "type[_Text | _Reasoning]", piece: str) -> Iterator[ModelEvent]:
        """More of a part that has been ended meanwhile is a new part: nothing is lost, and its place is true."""
        if piece and (self._current is None or self._parts.get(place) is not self._current):
            yield from self._begin(kind(), place)
        yield from self._pushed(piece)

    def _learn(self, place: int, delta: ThinkingPartDelta) -> None:
        part = self._parts.get(place)
        if isinstance(part, _Reasoning) and (delta.signature_delta or delta.provider_details):
            part.part = replace(delta, content_delta=None).apply(part.part)

    def _sign(self, place: int, given: TextPart | TextPartDelta) -> None:
        """The signature of a text comes with its last piece, which may be empty."""
        part, signature = self._parts.get(place), (given.provider_details or {}).get(SIGNATURE)
        if isinstance(part, _Text) and signature:
            part.body = PlainBody(signature=storable(signature), provider_name=given.provider_name)

    def _begin(self, part: "_Text | _Reasoning", place: int | None = None) -> Iterator[ModelEvent]:
        yield from self._end_current()
        self._current = part
        if place is not None:
            self._parts[place] = part

    def _pushed(self, piece: str) -> Iterator[ModelEvent]:
        """The current part starts when there is something in it."""
        current = self._current
        if isinstance(current, _Reasoning) and piece:
            piece, current.gap = current.gap + piece, ""
        if current is not None and (text := current.joiner.push(piece)):
            yield from self._shown(current, text)

    def _shown(self, part: "_Text | _Reasoning", text: str) -> Iterator[ModelEvent]:
        if part.index is None:
            part.index = self._next_index()
            self.answered = self.answered or isinstance(part, _Text)
            yield TextStarted(part.index) if isinstance(part, _Text) else ReasoningStarted(part.index)
        yield Delta(part.index, text)

    def _end_current(self) -> Iterator[ModelEvent]:
        if (current := self._current) is None:
            return
        if rest := current.joiner.flush():
            yield from self._shown(current, rest)
        self._current = None
        match current:
            case _Text(index=int(index), body=body):
                yield TextEnded(index, body)
            case _Reasoning(index=int(index)):
                yield ReasoningEnded(index, current.body())
            case _Reasoning() if current.part.signature:
                yield self._hidden(current.hidden_body())
            case _:
                pass

    def _hidden(self, body: HiddenReasoningBody) -> HiddenReasoning:
        return HiddenReasoning(self._next_index(), body)

    def _next_index(self) -> int:
        self._count += 1
        return self._count - 1


class _Text:
    def __init__(self) -> None:
        self.index: int | None = None
        self.joiner = Joiner()
        self.body = PlainBody()


class _Reasoning:
    """`part` holds all but the text. `gap` goes before the next piece of it."""

    def __init__(self, part: ThinkingPart | None = None) -> None:
        self.index: int | None = None
        self.joiner = Joiner()
        self.part = part or ThinkingPart("")
        self.gap = ""

    def body(self) -> ReasoningBody:
        return ReasoningBody(signature=self._signature(), provider_name=self.part.provider_name, provider_details=_kept(self.part))

    def hidden_body(self) -> HiddenReasoningBody:
        state = HiddenReasoningState.REDACTED if self.part.id in REDACTED else HiddenReasoningState.OMITTED
        return HiddenReasoningBody(
            state=state, signature=self._signature(), provider_name=self.part.provider_name, provider_details=_kept(self.part)
        )

    def _signature(self) -> str | None:
        return storable(self.part.signature) if self.part.signature else None


def _kept(part: ThinkingPart) -> dict[str, Any] | None:
    kept = {"id": part.id, "details": part.provider_details}
    return storable_json(to_jsonable_python({name: value for name, value in kept.items() if value})) or None


class _ToolCall:
    """Arguments come as JSON text, or, from providers that do not stream them, as an object. No word of them means that there are none,
    unless the model was cut: then they are not known, and the call must not be run as if they were.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self._joiner = Joiner()
        self._object: dict[str, Any] | None = None
        self._streamed = False

    def push(self, arguments: str | dict[str, Any] | None) -> Iterator[ModelEvent]:
        if isinstance(arguments, dict):
            self._object = (self._object or {}) | arguments
        elif arguments and (text := self._joiner.push(arguments)):
            yield self._delta(text)

    def end(self, *, cut: bool) -> Iterator[ModelEvent]:
        if rest := self._joiner.flush():
            yield self._delta(rest)
        if not self._streamed and not (cut and self._object is None):
            given = self._object or {}
            # What is nested too deeply is never run, but shown; orjson does not write it.
            arguments = given if is_too_deep(given) else storable_json(given)
            yield self._delta(storable(json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))))
        yield ToolCallEnded(self.index)

    def _delta(self, text: str) -> Delta:
        self._streamed = True
        return Delta(self.index, text)
