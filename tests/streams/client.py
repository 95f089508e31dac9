"""A client that knows the contract and nothing else: it folds items by the rules that stand beside them in the SDL.

What it cannot fold it ignores, as the contract says; what the contract promises (items join) it asserts.
"""

from dataclasses import dataclass, field, replace
from typing import Self

from vocabulary.conversations import Conversation
from vocabulary.events import (
    CaughtUp,
    ContextCompacted,
    ConversationChanged,
    Item,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    ResetReason,
    RunChanged,
    StreamReset,
    ToolCallChanged,
)
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody, ToolCall, ToolCallBody
from vocabulary.runs import Run

CODE_UNIT = 2
"""Bytes of it in UTF-16."""


@dataclass(frozen=True, slots=True)
class State:
    """What a client shows. Left out is what only says how new a row is: `sequence`, and the conversation's head."""

    messages: dict[str, Message]
    runs: dict[str, Run]
    conversation: Conversation | None

    def finished(self) -> dict[str, Message]:
        return {id_: message for id_, message in self.messages.items() if message.status is not MessageStatus.IN_PROGRESS}


@dataclass(slots=True)
class Client:
    """`position`: what it would give as `after`."""

    position: int = 0
    messages: dict[str, Message] = field(default_factory=dict[str, Message])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    conversation: Conversation | None = None
    caught_up_at: int | None = None
    resets: list[ResetReason] = field(default_factory=list[ResetReason])

    def reconnected(self) -> Self:
        """As it is after it lost its connection."""
        return replace(self, messages=dict(self.messages), runs=dict(self.runs), caught_up_at=None, resets=[])

    def state(self) -> State:
        return State(
            {id_: replace(message, sequence=0) for id_, message in self.messages.items()},
            {id_: replace(run, sequence=0) for id_, run in self.runs.items()},
            None if self.conversation is None else replace(self.conversation, head_sequence=0),
        )

    def take(self, item: Item) -> None:
        assert item.previous_sequence == self.position, "items join"
        made = isinstance(item.payload, CaughtUp | StreamReset)
        assert made or item.sequence > self.position, "a stored item is never shown twice"
        self.position = item.sequence
        match item.payload:
            case MessageStarted(message):
                self._start(message)
            case MessageDelta() as delta:
                self._grow(delta)
            case MessageCompleted(message) | MessageChanged(message):
                self.messages[message.id] = message
            case ToolCallChanged(message_id, _, call):
                self._set_call(message_id, call)
            case RunChanged(run):
                self.runs[run.id] = run
            case ConversationChanged(conversation):
                self.conversation = conversation
            case ContextCompacted(summary):
                self._compact(summary)
            case CaughtUp(head):
                self._catch_up(head)
            case StreamReset():
                self._reset(item.payload)
            case None:
                pass

    def _start(self, message: Message) -> None:
        held = self.messages.get(message.id)
        if held is None or held.sequence <= message.sequence:
            self.messages[message.id] = message

    def _grow(self, delta: MessageDelta) -> None:
        message = self.messages.get(delta.message_id)
        if message is None:
            return
        if delta.tool_call_id is None:
            self.messages[message.id] = replace(message, text=spliced(message.text, delta))
            return
        for call in _calls(message):
            if call.id == delta.tool_call_id:
                self._set_call(message.id, replace(call, arguments_text=spliced(call.arguments_text, delta)))

    def _set_call(self, message_id: str, call: ToolCall) -> None:
        if (message := self.messages.get(message_id)) is not None:
            calls = {known.id: known for known in _calls(message)} | {call.id: call}
            self.messages[message_id] = replace(message, body=ToolCallBody(tool_calls=tuple(calls.values())))

    def _compact(self, summary: Message) -> None:
        """What stays is the compiled system message, this summary, and the tail from its ordinal on."""
        assert isinstance(summary.body, SummaryBody)
        tail = summary.body.tail_ordinal or 0
        for id_, message in self.messages.items():
            old = message.type is MessageType.SUMMARY or (message.ordinal or 0) < tail
            if old and not is_compiled(message):
                self.messages[id_] = replace(message, in_context=False)
        self.messages[summary.id] = summary

    def _catch_up(self, head: int) -> None:
        assert self.caught_up_at is None, "it comes once"
        assert head == self.position
        self.caught_up_at = head

    def _reset(self, reset: StreamReset) -> None:
        assert reset.head_sequence == self.position
        self.resets.append(reset.reason)
        self.messages, self.runs, self.conversation = {}, {}, None


def spliced(held: str, delta: MessageDelta) -> str:
    """The delta rule. Offsets are cut as a JavaScript client would cut them; a cut through a character would raise."""
    units = held.encode("utf-16-le")
    start, added = delta.offset * CODE_UNIT, delta.text.encode("utf-16-le")
    if start > len(units) or start + len(added) <= len(units):
        return held
    return (units[:start] + added).decode("utf-16-le")


def is_compiled(message: Message) -> bool:
    """The first entry of a history: the system message, which is shown whatever was compacted."""
    return message.ordinal == 1


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.body.tool_calls if isinstance(message.body, ToolCallBody) else ()
