"""One model call becoming messages: each part that the model streams is a message that starts, grows and is closed.

All tool calls of a step share one TOOL_CALL message, closed when the model has said all; text and reasoning have one each.
No I/O: what is to be stored goes to the pen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from llm.model import (
    Delta,
    Failed,
    Finished,
    HiddenReasoning,
    ModelEvent,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
)
from runs import state
from runs.writing.writes import Append, Call, Close, Open, Whole, Write
from vocabulary.ids import Noun, new_id
from vocabulary.messages import (
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    PlainBody,
    ReasoningBody,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolSource,
)
from vocabulary.runs import Run, Step
from vocabulary.text import utf16_length


class Sink(Protocol):
    def write(self, *writes: Write) -> None: ...


@dataclass(slots=True)
class _Text:
    """What a part has grown to: `length` in UTF-16 code units."""

    pieces: list[str] = field(default_factory=list[str])
    length: int = 0

    def grow(self, text: str) -> int:
        """Answers the offset at which the text was added."""
        offset = self.length
        self.pieces.append(text)
        self.length += utf16_length(text)
        return offset

    def __str__(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class _Part:
    message: Message
    text: _Text = field(default_factory=_Text)
    call: ToolCall | None = None


class Answer:
    """Feed it every event of one call; read `messages` and `end` when the last has come."""

    def __init__(self, run: Run, step: Step, pen: Sink, *, source_of: Callable[[str], ToolSource], clock: Callable[[], datetime]) -> None:
        self._run = run
        self._step = step
        self._pen = pen
        self._source_of = source_of
        self._clock = clock
        self._parts: dict[int, _Part] = {}
        self._calls: Message | None = None
        self.messages: list[Message] = []
        self.first_token_at: datetime | None = None
        self.begun = False
        """Whether anything of it has been shown."""
        self.end: Finished | Failed | None = None

    def take(self, event: ModelEvent) -> None:
        self.begun = self.begun or not isinstance(event, Finished | Failed)
        match event:
            case TextStarted(index):
                self._open(index, MessageType.ASSISTANT, PlainBody())
            case ReasoningStarted(index):
                self._open(index, MessageType.REASONING, ReasoningBody())
            case ToolCallStarted():
                self._open_call(event)
            case Delta(index, text):
                self._grow(self._parts[index], text)
            case TextEnded(index, body) | ReasoningEnded(index, body):
                self._close(self._parts[index], body)
            case HiddenReasoning(_, body):
                self._whole(MessageType.HIDDEN_REASONING, body)
            case ToolCallEnded(index):
                self._end_call(self._parts[index])
            case Finished():
                self._close_calls()
                self.end = event
            case Failed():
                self.end = event

    @property
    def tool_calls(self) -> Message | None:
        """The finished TOOL_CALL message."""
        return self.messages[-1] if self.messages and self.messages[-1].type is MessageType.TOOL_CALL else None

    def _new(self, kind: MessageType, body: MessageBody, status: MessageStatus) -> Message:
        return Message(
            id=new_id(Noun.MESSAGE),
            conversation_id=self._run.conversation_id,
            type=kind,
            status=status,
            ordinal=None,
            text="",
            body=body,
            in_tail=True,
            in_context=True,
            group_id=self._run.group_id,
            run_id=self._run.id,
            step_id=self._step.id,
            sequence=0,
            created_at=self._clock(),
        )

    def _open(self, index: int, kind: MessageType, body: MessageBody) -> None:
        message = self._new(kind, body, MessageStatus.IN_PROGRESS)
        self._parts[index] = _Part(message)
        self._pen.write(Open(message))

    def _whole(self, kind: MessageType, body: MessageBody) -> None:
        message = self._new(kind, body, MessageStatus.COMPLETED)
        self.messages.append(message)
        self._pen.write(Whole(message))

    def _open_call(self, event: ToolCallStarted) -> None:
        if self._calls is None:
            self._calls = self._new(MessageType.TOOL_CALL, ToolCallBody(), MessageStatus.IN_PROGRESS)
            self._pen.write(Open(self._calls))
        call = ToolCall(
            id=new_id(Noun.TOOL_CALL),
            name=event.name,
            state=ToolCallState.STREAMING,
            source=self._source_of(event.name),
            provider_call_id=event.provider_call_id,
        )
        self._parts[event.index] = _Part(self._calls, call=call)
        self._pen.write(Call(self._calls, call, stored=False))

    def _grow(self, part: _Part, text: str) -> None:
        self.first_token_at = self.first_token_at or self._clock()
        call_id = None if part.call is None else part.call.id
        self._pen.write(Append(part.message.id, part.message.type, call_id, part.text.grow(text), text))

    def _close(self, part: _Part, body: MessageBody) -> None:
        closed = replace(_completed(part.message), text=str(part.text), body=body)
        self.messages.append(closed)
        self._pen.write(Close(closed))

    def _end_call(self, part: _Part) -> None:
        assert part.call is not None
        pending = state.moved(state.TOOL_CALL, part.call.state, ToolCallState.PENDING)
        part.call = replace(part.call, state=pending, arguments_text=str(part.text))
        self._pen.write(Call(part.message, part.call, stored=False))

    def _close_calls(self) -> None:
        if self._calls is None:
            return
        calls = tuple(part.call for part in self._parts.values() if part.call is not None)
        closed = replace(_completed(self._calls), body=ToolCallBody(tool_calls=calls))
        self.messages.append(closed)
        self._pen.write(Close(closed))


def _completed(message: Message) -> Message:
    return replace(message, status=state.moved(state.MESSAGE, message.status, MessageStatus.COMPLETED))
