"""What must be true of a conversation at every moment, also in the middle of a run: its log told step by step, and the rows beside it.

`logs.checked` asks more, of conversations at rest.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import select

from db import messages, runs
from db.engine import Connection
from db.heads import Head
from db.paging import Window
from db.tables import events
from runs.state import RUN, TOOL_CALL, S
from tests.rig import Rig
from tests.runs.logs import texts
from vocabulary.conversations import Conversation, ConversationStatus
from vocabulary.events import Event, EventKind, RunChanged
from vocabulary.messages import AWAITING, Message, MessageStatus, MessageType, ToolCall, ToolCallBody, ToolCallState
from vocabulary.runs import Run, RunKind, RunStatus, Step, Usage

_AT_WORK = frozenset({ToolCallState.STREAMING, ToolCallState.PENDING, ToolCallState.RUNNING})
UNFINISHED = frozenset({MessageStatus.IN_PROGRESS, MessageStatus.QUEUED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """All of a conversation at one moment. `runs` in the order of their sending; `messages` hold the queued ones, too. `events` and
    `moves_of_calls` are empty when the log was not asked for.
    """

    head: Head
    conversation: Conversation
    events: Sequence[Event]
    history: Sequence[Message]
    messages: Sequence[Message]
    runs: Sequence[Run]
    steps: Sequence[Step]
    moves_of_calls: Mapping[str, Sequence[ToolCallState]]

    @property
    def active(self) -> Run | None:
        return next((run for run in self.runs if run.id == self.head.active_run_id), None)

    @property
    def may_go_on(self) -> list[Run]:
        """Those that somebody ought to work on."""
        waits = self.conversation.pending_message_id is not None
        return [run for run in self.runs if not run.ended and not (waits and run.status is RunStatus.QUEUED)]

    @property
    def calls(self) -> list[ToolCall]:
        return [call for message in self.messages if message.type is MessageType.TOOL_CALL for call in _calls(message)]

    @property
    def waiting(self) -> list[ToolCall]:
        """That can be answered: while others of their step still run, they cannot."""
        return [] if self.conversation.pending_message_id is None else [call for call in self.calls if call.state in AWAITING]

    @property
    def asked_by(self) -> str | None:
        """The run whose calls wait for an answer."""
        pending = self.conversation.pending_message_id
        return next((message.run_id for message in self.messages if message.id == pending), None)


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.body.tool_calls if isinstance(message.body, ToolCallBody) else ()


async def shown(rig: Rig, conversation_id: str, *, log: bool = True) -> Shown:
    """Read under the head's lock: nobody writes meanwhile."""
    async with rig.engine.log.transaction() as transaction:
        head = await transaction.lock(conversation_id)
        assert head is not None
        async with rig.database.read() as connection:
            page = await runs.pages(connection, [conversation_id], None, Window(size=1000))
            all_runs = [part.item for part in page[conversation_id].slices]
            steps = await runs.steps_of(connection, [run.id for run in all_runs])
            of_runs = await messages.of_runs(connection, [run.id for run in all_runs])
            moves_of_calls = await _moves_of_calls(connection, conversation_id) if log else {}
        return Shown(
            head=head,
            conversation=await rig.read(conversation_id),
            events=await rig.stored(conversation_id) if log else (),
            history=await rig.history(conversation_id),
            messages=[message for run in all_runs for message in of_runs[run.id]],
            runs=all_runs,
            steps=steps,
            moves_of_calls=moves_of_calls,
        )


async def _moves_of_calls(connection: Connection, conversation_id: str) -> dict[str, list[ToolCallState]]:
    """As they were stored: a replay tells of each call how it is now."""
    query = select(events.c.tool_call_id, events.c.data).where(events.c.conversation_id == conversation_id)
    moves = defaultdict[str, list[ToolCallState]](list)
    for row in await connection.execute(query.where(events.c.kind == EventKind.TOOL_CALL_CHANGED.value).order_by(events.c.sequence)):
        moves[row.tool_call_id].append(ToolCallState(row.data["state"]))
    return dict(moves)


def consistent(seen: Shown) -> None:
    """Of what was shown with its log. Raises AssertionError."""
    assert [event.sequence for event in seen.events] == list(range(1, seen.head.head_sequence + 1))
    _texts_grow_from_the_log(seen)
    _everything_moved_as_the_tables_allow(seen)
    rows_fit(seen)


def rows_fit(seen: Shown) -> None:
    """Each other. Raises AssertionError."""
    assert [message.ordinal for message in seen.history] == list(range(1, seen.head.next_ordinal))
    _one_run_is_active(seen)
    _what_has_ended_is_at_rest(seen)
    _what_waits_is_known(seen)
    _steps_add_up(seen)
    _what_was_cut_stays_where_it_was_shown(seen)


def _texts_grow_from_the_log(seen: Shown) -> None:
    grown = texts(seen.events)
    for message in seen.history:
        if message.type in (MessageType.ASSISTANT, MessageType.REASONING):
            assert grown.pop((message.id, None), "") == message.text
        elif message.type is MessageType.TOOL_CALL:
            for call in _calls(message):
                assert grown.pop((message.id, call.id), "") == call.arguments_text
    assert grown == {}


def _everything_moved_as_the_tables_allow(seen: Shown) -> None:
    """And the row is where the log's last word has left it."""
    of_runs = defaultdict[str, list[RunStatus]](list)
    for event in seen.events:
        if isinstance(event.payload, RunChanged):
            of_runs[event.payload.run.id].append(event.payload.status)
    assert all(statuses[0] is RunStatus.QUEUED for statuses in of_runs.values())
    assert all(states[0] is ToolCallState.STREAMING for states in seen.moves_of_calls.values())
    _legal(RUN, of_runs, {run.id: run.status for run in seen.runs})
    _legal(TOOL_CALL, seen.moves_of_calls, {call.id: call.state for call in seen.calls})


def _legal(table: Mapping[S, frozenset[S]], moves: Mapping[str, Sequence[S]], now: Mapping[str, S]) -> None:
    assert {id_: states[-1] for id_, states in moves.items()} == now
    for id_, states in moves.items():
        for old, new in pairwise(states):
            assert new in table[old], (id_, states)


def _one_run_is_active(seen: Shown) -> None:
    running = [run.id for run in seen.runs if run.status is RunStatus.RUNNING]
    assert running == ([] if seen.head.active_run_id is None else [seen.head.active_run_id])


def _what_has_ended_is_at_rest(seen: Shown) -> None:
    by_id = {run.id: run for run in seen.runs}
    gone_on_with = {run.request.answers for run in seen.runs if not run.ended}
    for message in seen.messages:
        if by_id[message.run_id or ""].ended:
            assert message.status not in UNFINISHED, message
            if message.id not in gone_on_with and message.type is MessageType.TOOL_CALL:
                assert not any(call.state in _AT_WORK for call in _calls(message)), message
    for run in seen.runs:
        assert run.ended == (run.completed_at is not None) == (run.stop_reason is not None), run
        assert (run.status is RunStatus.FAILED) == (run.error is not None), run


def _what_waits_is_known(seen: Shown) -> None:
    is_pending = seen.conversation.pending_message_id is not None
    if seen.active is None:
        assert is_pending == any(call.state in AWAITING for call in seen.calls)
    elif seen.active.kind is RunKind.RESPONSE:
        assert not is_pending
    expected = (
        ConversationStatus.AWAITING_INPUT if is_pending else ConversationStatus.RUNNING if seen.may_go_on else ConversationStatus.IDLE
    )
    assert seen.conversation.status is expected


def _steps_add_up(seen: Shown) -> None:
    """And the call of each step was paid for, of those that were cut, too."""
    for run in seen.runs:
        steps = [step for step in seen.steps if step.run_id == run.id]
        assert run.usage == _sum(step.usage for step in steps), run
        assert not run.ended or all(step.usage.requests > 0 for step in steps), run


def _what_was_cut_stays_where_it_was_shown(seen: Shown) -> None:
    """Words of the step in which a run was ended are in context; of a step that was done again nothing is."""
    last = {step.run_id: step.id for step in seen.steps}
    undone = {step.id for step in seen.steps if step.completed_at is None}
    for message in seen.messages:
        if message.step_id in undone and message.step_id != last[message.run_id or ""]:
            assert not message.in_tail, message
        elif message.status is MessageStatus.INTERRUPTED and message.ordinal is not None:
            assert message.in_tail == (message.type is MessageType.ASSISTANT and bool(message.text)), message


def _sum(usages: Iterable[Usage]) -> Usage:
    return sum(usages, Usage())
