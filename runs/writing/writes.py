"""What a run's own task writes: the closed union of its writes, and how a batch of them becomes rows and events. Pure.

A run hands its writes over in order and never touches a connection. Deltas to one text that follow each other in a batch are one event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from db.conversations import ContextMove
from vocabulary.compaction import CompactionStats
from vocabulary.events import (
    ContextCompacted,
    Event,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    RunChanged,
    StoredPayload,
    ToolCallChanged,
)
from vocabulary.messages import Message, MessageType, SummaryBody, ToolCall, ToolCallBody
from vocabulary.runs import Run, Step


@dataclass(frozen=True, slots=True)
class Open:
    """A message starts, empty. It takes its place in history now."""

    message: Message


@dataclass(frozen=True, slots=True)
class Append:
    """`offset`: UTF-16 code units before it."""

    message_id: str
    message_type: MessageType
    tool_call_id: str | None
    offset: int
    text: str

    def joined(self, following: "Append") -> "Append | None":
        if (self.message_id, self.tool_call_id) != (following.message_id, following.tool_call_id):
            return None
        return Append(self.message_id, self.message_type, self.tool_call_id, self.offset, self.text + following.text)


@dataclass(frozen=True, slots=True)
class Close:
    """An open message in its final state."""

    message: Message


@dataclass(frozen=True, slots=True)
class Whole:
    """A message that was never open."""

    message: Message


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call has appeared in an open message, or has moved on in a finished one (`message` is then its new row)."""

    message: Message
    tool_call: ToolCall
    stored: bool


@dataclass(frozen=True, slots=True)
class Return:
    """The returns of all calls of a step, as a message that was never open; `calls`, their message, keeps none of them any longer."""

    message: Message
    calls: Message


@dataclass(frozen=True, slots=True)
class StartStep:
    step: Step
    run: Run


@dataclass(frozen=True, slots=True)
class Spend:
    """The model call of a step that goes on: what it took is known, whatever becomes of the rest. `run` carries the sum."""

    step: Step
    run: Run


@dataclass(frozen=True, slots=True)
class EndStep:
    """`run` carries the sum of usage; when this was the last step also how it ended, so that both are one event.

    `waits_for`: the request that the conversation waits for from now on.
    """

    step: Step
    run: Run
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class Recompile:
    """The system message, in its place, says what its agent and its memory are compiled into when this is committed.

    What they were compiled into when it was written may be outdated by then. `message`: as it was read, for all else.
    """

    message: Message


@dataclass(frozen=True, slots=True)
class Summarise:
    """The context moves: a summary takes its place in history, and the tail begins with `first_kept`; None: behind the summary."""

    message: Message
    first_kept: Message | None


@dataclass(frozen=True, slots=True)
class Compact:
    """Tells of a summary that was written just before, in the same breath."""

    summary_id: str
    first_kept: Message | None
    stats: CompactionStats


Write = Open | Append | Close | Whole | Call | Return | StartStep | Spend | EndStep | Recompile | Summarise | Compact


def ends(write: Write) -> bool:
    """Whether it is the last of its run."""
    return isinstance(write, EndStep) and write.run.ended


def recompiles(writes: Sequence[Write]) -> bool:
    return any(isinstance(write, Recompile) for write in writes)


@dataclass(slots=True)
class Rows:
    """One transaction's worth of rows, of any number of runs, each list in the order in which it must be written.

    `prompts`: of the conversations that are told to compile theirs, what they are compiled into now.
    """

    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    created: list[Message] = field(default_factory=list[Message])
    closed: list[Message] = field(default_factory=list[Message])
    changed: list[Message] = field(default_factory=list[Message])
    tidied: list[Message] = field(default_factory=list[Message])
    started_steps: list[Step] = field(default_factory=list[Step])
    changed_steps: list[Step] = field(default_factory=list[Step])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    waiting: dict[str, str | None] = field(default_factory=dict[str, str | None])
    moves: list[ContextMove] = field(default_factory=list[ContextMove])
    summaries: dict[str, Message] = field(default_factory=dict[str, Message])
    events: list[Event] = field(default_factory=list[Event])


def ordinals(writes: Sequence[Write]) -> int:
    """How many places in history these writes take."""
    return sum(isinstance(write, Open | Whole | Return | Summarise) for write in writes)


def lay_out(
    rows: Rows, writes: Sequence[Write], *, run: Run, first_sequence: int, first_ordinal: int, places: dict[str, int], now: datetime
) -> None:
    """Adds one run's writes to the rows, one number each. `places` keeps the ordinals of its open messages from batch to batch."""
    ordinal = first_ordinal
    for sequence, write in enumerate(writes, first_sequence):
        if isinstance(write, Open | Whole | Return | Summarise):
            places[write.message.id] = ordinal
            ordinal += 1
        payload = _delta(write) if isinstance(write, Append) else _payload(rows, write, sequence, places, now)
        rows.events.append(Event(run.conversation_id, sequence, now, run.id, payload))


def _delta(write: Append) -> MessageDelta:
    return MessageDelta(write.message_id, write.message_type, write.offset, write.text, write.tool_call_id)


def _payload(
    rows: Rows,
    write: Open | Close | Whole | Call | Return | StartStep | Spend | EndStep | Recompile | Summarise | Compact,
    sequence: int,
    places: dict[str, int],
    now: datetime,
) -> StoredPayload:
    def placed(message: Message) -> Message:
        """What an earlier run has written knows its place."""
        return replace(message, ordinal=places.get(message.id, message.ordinal), sequence=sequence)

    match write:
        case Open(message):
            rows.created.append(message := placed(message))
            return MessageStarted(message)
        case Close(message):
            rows.closed.append(message := placed(message))
            return MessageCompleted(message)
        case Whole(message):
            rows.created.append(message := placed(message))
            return MessageCompleted(message)
        case Call(message, tool_call, stored):
            if stored:
                rows.changed.append(placed(message))
            return ToolCallChanged(message.id, message.type, replace(tool_call, returned=None))
        case Return(message, calls):
            rows.tidied.append(without_returns(calls))
            rows.created.append(message := placed(message))
            return MessageCompleted(message)
        case StartStep(step, run):
            rows.started_steps.append(step)
            return _run_changed(rows, run, sequence)
        case Spend(step, run):
            rows.changed_steps.append(step)
            return _run_changed(rows, run, sequence)
        case EndStep(step, run, waits_for):
            rows.changed_steps.append(step)
            if waits_for is not None:
                rows.waiting[run.conversation_id] = waits_for
            return _run_changed(rows, _dated(run, now), sequence)
        case Recompile(message):
            rows.changed.append(message := replace(message, text=rows.prompts[message.conversation_id], sequence=sequence))
            return MessageChanged(message)
        case Summarise(message, first_kept):
            return MessageCompleted(_summarise(rows, placed(message), first_kept))
        case Compact(summary_id, first_kept, stats):
            return ContextCompacted(rows.summaries[summary_id], None if first_kept is None else first_kept.id, stats)


def without_returns(calls: Message) -> Message:
    """From now on the message of the returns tells them."""
    assert isinstance(calls.body, ToolCallBody)
    return replace(calls, body=ToolCallBody(tool_calls=tuple(replace(call, returned=None) for call in calls.body.tool_calls)))


def _summarise(rows: Rows, message: Message, first_kept: Message | None) -> Message:
    ordinal = message.ordinal if first_kept is None else first_kept.ordinal
    assert isinstance(message.body, SummaryBody)
    assert message.ordinal is not None
    assert ordinal is not None, "what is kept is in history"
    tail_ordinal = ordinal + 1 if first_kept is None else ordinal
    message = replace(message, body=replace(message.body, tail_ordinal=tail_ordinal))
    rows.created.append(message)
    rows.moves.append(ContextMove(message.conversation_id, message.id, tail_ordinal))
    rows.summaries[message.id] = message
    return message


def _dated(run: Run, now: datetime) -> Run:
    """A run has ended when that is stored: its conversation and its event tell the same time."""
    return replace(run, completed_at=now) if run.ended else run


def _run_changed(rows: Rows, run: Run, sequence: int) -> RunChanged:
    run = rows.runs[run.id] = replace(run, sequence=sequence)
    return RunChanged(run, run.status, run.stop_reason)
