"""A client that is told of a conversation from its first event on, and holds what follows from that: what the log folds to.

`Held` is the fold, which refuses whatever no log may tell; `agrees` sets it beside the rows. A `Witness` follows as any subscriber
does, and comes back with its position when the process that told it has died.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runs.state import MESSAGE, RUN
from tests.e2e.client import grown
from tests.puppet import Bell
from tests.rig import Rig
from tests.runs.consistency import UNFINISHED, Shown
from vocabulary.conversations import Conversation
from vocabulary.events import (
    CaughtUp,
    ContextCompacted,
    ConversationChanged,
    DeltaMode,
    Item,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    Payload,
    RunChanged,
    StreamReset,
    ToolCallChanged,
)
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody, ToolCall, ToolCallBody, ToolCallState
from vocabulary.runs import Run, RunKind, RunStatus, StopReason


@dataclass(slots=True)
class Held:
    """`summary_id`, `tail_ordinal`: the context, which moves only when its event says so. `line`: the runs that wait, in the order in which
    they will start. `asked_for`: the request that the conversation waits for.
    """

    conversation: Conversation
    position: int = 0
    messages: dict[str, Message] = field(default_factory=dict[str, Message])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    statuses: dict[str, RunStatus] = field(default_factory=dict[str, RunStatus])
    line: list[str] = field(default_factory=list[str])
    summary_id: str | None = None
    tail_ordinal: int = 1
    asked_for: str | None = None
    deleted: bool = False

    @property
    def running(self) -> list[str]:
        return [id_ for id_, status in self.statuses.items() if status is RunStatus.RUNNING]

    def take(self, item: Item) -> None:
        """Raises AssertionError."""
        assert item.previous_sequence == self.position, f"a hole: {item.previous_sequence} after {self.position}"
        assert not self.deleted, "nothing follows the end"
        self.position = item.sequence
        self._fold(item.payload, item.sequence)

    def _fold(self, payload: Payload | None, sequence: int) -> None:
        match payload:
            case MessageStarted(message):
                assert message.id not in self.messages, "a message starts once"
                assert message.status in UNFINISHED
                self.messages[message.id] = message
            case MessageDelta():
                self._grow(payload, sequence)
            case MessageCompleted(message):
                self._complete(message)
            case MessageChanged(message):
                assert self.messages[message.id].status not in UNFINISHED
                self.messages[message.id] = message
            case ToolCallChanged(message_id, _, call):
                self._change_call(message_id, call, sequence)
            case RunChanged(run, status, stop_reason):
                self._move(run, status, stop_reason)
            case ConversationChanged(conversation):
                self.conversation = conversation
            case ContextCompacted(summary):
                assert isinstance(summary.body, SummaryBody)
                self.summary_id, self.tail_ordinal = summary.id, summary.body.tail_ordinal or 0
            case StreamReset():
                self.deleted = True
            case CaughtUp():
                pass
            case None:
                raise AssertionError("a kind that nobody knows")

    def _grow(self, delta: MessageDelta, sequence: int) -> None:
        message = self.messages[delta.message_id]
        if delta.tool_call_id is None:
            self.messages[message.id] = replace(message, text=grown(message.text, delta.offset, delta.text), sequence=sequence)
            return
        call = next(call for call in _calls(message) if call.id == delta.tool_call_id)
        self._change_call(message.id, replace(call, arguments_text=grown(call.arguments_text, delta.offset, delta.text)), sequence)

    def _complete(self, message: Message) -> None:
        held = self.messages.get(message.id)
        if held is not None:
            assert message.status in MESSAGE[held.status], (held.status, message.status)
            if held.status is MessageStatus.IN_PROGRESS:
                assert (held.text, _arguments(held)) == (message.text, _arguments(message)), "the deltas say something else"
        self.messages[message.id] = message
        if message.type is MessageType.APPROVAL_RESPONSE:
            self.asked_for = None

    def _change_call(self, message_id: str, call: ToolCall, sequence: int) -> None:
        message = self.messages[message_id]
        calls = {known.id: known for known in _calls(message)} | {call.id: replace(call, returned=None)}
        self.messages[message_id] = replace(message, body=ToolCallBody(tool_calls=tuple(calls.values())), sequence=sequence)

    def _move(self, run: Run, status: RunStatus, stop_reason: StopReason | None) -> None:
        old = self.statuses.get(run.id)
        if old is None:
            self._queue(run, status)
        else:
            assert status in RUN[old], (run.id, old, status)
        if status is RunStatus.RUNNING and old is RunStatus.QUEUED:
            self._start(run)
        if status is not RunStatus.RUNNING and run.id in self.line and old is not None:
            self.line.remove(run.id)
        if stop_reason is StopReason.REQUIRES_APPROVAL:
            self.asked_for = self._request_of(run)
        self.runs[run.id], self.statuses[run.id] = run, status

    def _queue(self, run: Run, status: RunStatus) -> None:
        """What is in history already has to be answered before anything else is said."""
        assert status is RunStatus.QUEUED
        given = [message for message in self.messages.values() if message.run_id == run.id and message.step_id is None]
        is_next = run.request.answers is not None or any(message.ordinal is not None for message in given)
        self.line.insert(0 if is_next else len(self.line), run.id)

    def _start(self, run: Run) -> None:
        assert self.running == [], "one runs at a time"
        if self.asked_for is None:
            assert self.line[0] == run.id, "somebody was overtaken"
        else:
            assert run.kind is RunKind.COMPACTION, "a call waits for its answer"
        self.line.remove(run.id)

    def _request_of(self, run: Run) -> str:
        return next(id_ for id_, m in reversed(self.messages.items()) if m.run_id == run.id and m.type is MessageType.APPROVAL_REQUEST)


def agrees(held: Held, seen: Shown) -> None:
    """Of a client that has been told of everything. Raises AssertionError."""
    assert held.position == seen.head.head_sequence
    assert held.asked_for == seen.conversation.pending_message_id
    moved = {"summary_message_id": held.summary_id, "tail_ordinal": held.tail_ordinal}
    assert replace(held.conversation, head_sequence=held.position, **moved) == seen.conversation
    assert {id_: _told(run) for id_, run in held.runs.items()} == {run.id: _told(run) for run in seen.runs}
    assert held.statuses == {run.id: run.status for run in seen.runs}
    rows = {message.id: message for message in [*seen.history, *seen.messages]}
    assert held.messages.keys() == rows.keys()
    for message in rows.values():
        assert _shown(held.messages[message.id]) == _shown(message)
        assert message.in_context == _in_context(message, held)


def _told(run: Run) -> Run:
    """Who works on it, and how often somebody has tried, is not for clients."""
    return replace(run, worker_id=None, attempt=0)


def _shown(message: Message) -> Message:
    """Whether it is in the context follows from the conversation; what became of the calls of a request is told of their step's message."""
    calls = tuple(replace(call, returned=None) for call in _calls(message))
    if message.type is MessageType.APPROVAL_REQUEST:
        calls = tuple(replace(call, state=ToolCallState.AWAITING_APPROVAL) for call in calls)
    return replace(message, in_context=False, body=ToolCallBody(tool_calls=calls) if calls else message.body)


def _in_context(message: Message, held: Held) -> bool:
    at_top = message.id in (held.conversation.system_message_id, held.summary_id)
    return at_top or (message.in_tail and message.ordinal is not None and message.ordinal >= held.tail_ordinal)


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.body.tool_calls if isinstance(message.body, ToolCallBody) else ()


def _arguments(message: Message) -> Mapping[str, str]:
    return {call.id: call.arguments_text for call in _calls(message)}


class Witness:
    """`bell`: rung with every event that was taken."""

    def __init__(self, parley: Rig, conversation: Conversation, bell: Bell) -> None:
        self.held = Held(conversation)
        self._parley = parley
        self._bell = bell
        self._task = asyncio.create_task(self._follow(), name="a witness")

    def look(self) -> Held:
        """What it holds. Raises what has stopped it."""
        if self._task.done():
            self._task.result()
        return self.held

    async def come_back(self) -> None:
        await self.leave()
        self._task = asyncio.create_task(self._follow(), name="a witness")

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        try:
            async for item in self._parley.reader.follow(self.held.conversation.id, after=self.held.position, mode=DeltaMode.ALL):
                self.held.take(item)
                self._bell.ring()
        finally:
            self._bell.ring()
