"""What must be true of every conversation's log, whatever happened to it, and short ways to ask a log what a test wants to know."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby

from sqlalchemy import func, select

from db import runs
from db.engine import Database
from db.tables import metadata
from tests.rig import Rig, collect
from vocabulary.events import (
    DeltaMode,
    Event,
    Item,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    Payload,
    RunChanged,
    ToolCallChanged,
)
from vocabulary.messages import Message, MessageStatus, MessageType, ToolCallBody, ToolReturnBody
from vocabulary.runs import TERMINAL_STATUSES, RunStatus, Step
from vocabulary.text import utf16_length

Text = tuple[str, str | None]
"""A message, or a tool call in it: what deltas grow."""


async def checked(rig: Rig, conversation_id: str) -> list[Event]:
    """The whole log, after a look at everything that must hold of it and of the rows beside it. For conversations at rest."""
    events, history = await rig.stored(conversation_id), await rig.history(conversation_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (await rig.read(conversation_id)).head_sequence == len(events)
    assert [message.ordinal for message in history] == list(range(1, len(history) + 1))
    _texts_are_what_the_log_says(events, history)
    _messages_start_and_end_once(events, history)
    _runs_end_once(events)
    calls_are_answered(history)
    return events


def _texts_are_what_the_log_says(events: Iterable[Event], history: Iterable[Message]) -> None:
    grown = texts(events)
    for message in history:
        if message.type in (MessageType.ASSISTANT, MessageType.REASONING):
            assert grown.pop((message.id, None), "") == message.text
        elif message.type is MessageType.TOOL_CALL and isinstance(message.body, ToolCallBody):
            for call in message.body.tool_calls:
                assert grown.pop((message.id, call.id), "") == call.arguments_text
    assert grown == {}


def texts(events: Iterable[Event]) -> dict[Text, str]:
    """Deltas put together; each begins where the one before it ended."""
    grown: dict[Text, str] = defaultdict(str)
    for event in events:
        if isinstance(delta := event.payload, MessageDelta):
            key = (delta.message_id, delta.tool_call_id)
            assert delta.offset == utf16_length(grown[key])
            grown[key] += delta.text
    return dict(grown)


def _messages_start_and_end_once(events: Iterable[Event], history: Iterable[Message]) -> None:
    started = [event.payload.message.id for event in events if isinstance(event.payload, MessageStarted)]
    completed = [event.payload.message.id for event in events if isinstance(event.payload, MessageCompleted)]
    assert len(set(started)) == len(started)
    assert sorted(completed) == sorted([*(message.id for message in history), *(message.id for message in taken_out(events))])
    assert set(started) <= set(completed)


def _runs_end_once(events: Sequence[Event]) -> None:
    of_runs = sorted((event for event in events if event.run_id is not None), key=lambda event: event.run_id or "")
    for run_id, told in groupby(of_runs, key=lambda event: event.run_id):
        statuses = [event.payload.status for event in told if isinstance(event.payload, RunChanged)]
        assert statuses[0] is RunStatus.QUEUED, run_id
        assert [status in TERMINAL_STATUSES for status in statuses] == [False] * (len(statuses) - 1) + [True], (run_id, statuses)
    last = {event.run_id: event for event in events if event.run_id is not None}
    assert all(isinstance(event.payload, RunChanged) and event.payload.status in TERMINAL_STATUSES for event in last.values())


def calls_are_answered(history: Iterable[Message]) -> None:
    """Each once, and in their order."""
    called, answered = list[str](), list[str]()
    for message in history:
        if message.type is MessageType.TOOL_CALL and message.status is MessageStatus.COMPLETED and isinstance(message.body, ToolCallBody):
            called += [call.id for call in message.body.tool_calls]
        elif isinstance(message.body, ToolReturnBody):
            answered += [item.tool_call_id for item in message.body.tool_returns]
    assert answered == called


# ---- questions


def taken_out(events: Iterable[Event]) -> list[Message]:
    """Queued inputs whose run was ended before it began: they never entered history."""
    ends = [event.payload.message for event in events if isinstance(event.payload, MessageCompleted)]
    return [message for message in ends if message.ordinal is None]


async def until(rig: Rig, conversation_id: str, happened: Callable[[Payload | None], bool]) -> list[Item]:
    """Follows the conversation from its start until something has happened in it."""
    return await collect(rig.reader.follow(conversation_id, after=0, mode=DeltaMode.ALL), lambda item: happened(item.payload))


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """For what the log does not tell."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


def said(text: str) -> Callable[[Payload | None], bool]:
    """A delta that ends with this text."""
    return lambda payload: isinstance(payload, MessageDelta) and payload.text.endswith(text)


def running(payload: Payload | None) -> bool:
    return isinstance(payload, RunChanged) and payload.status is RunStatus.RUNNING


async def rows(database: Database) -> dict[str, int]:
    """How many rows each table holds."""
    async with database.read() as connection:
        counts = [await connection.execute(select(func.count()).select_from(table)) for table in metadata.sorted_tables]
    return {table.name: count.scalar_one() for table, count in zip(metadata.sorted_tables, counts, strict=True)}


def statuses(events: Iterable[Event], run_id: str) -> list[RunStatus]:
    return [event.payload.status for event in events if event.run_id == run_id and isinstance(event.payload, RunChanged)]


def call_states(events: Iterable[Event]) -> list[str]:
    return [event.payload.tool_call.state for event in events if isinstance(event.payload, ToolCallChanged)]


def only(history: Iterable[Message], kind: MessageType) -> Message:
    """The one message of this kind."""
    [found] = [message for message in history if message.type is kind]
    return found


async def steps(rig: Rig, run_id: str) -> list[Step]:
    async with rig.database.read() as connection:
        return await runs.steps_of(connection, [run_id])
