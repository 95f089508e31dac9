"""What a batch is held for: committed only if this very try was, and each run's part only if that run held its head.

Pens are written with before the writer looks, so that what they write is one batch; the clock stands, so that times prove nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from db import events
from db.engine import Database
from runs.commands.cancel import cancel_run
from runs.workers.advance import advance, hand_over
from runs.writing.pen import LeaseLost, Pen, WriteRefused
from runs.writing.writer import Writer
from runs.writing.writes import Append, Close, Open, Whole, Write
from streams.bus import MemoryBus
from streams.log import Log
from tests.db.rows import NOON, a_message
from tests.db.statements import statements
from tests.rig import TENANT, Rig, rig
from tests.runs.doubt import Doubtful, Fate, Forgetful
from tests.runs.logs import texts
from vocabulary.events import Event, MessageCompleted, MessageDelta
from vocabulary.lists import ListItem
from vocabulary.messages import Message, MessageStatus, MessageType
from vocabulary.runs import BusyPolicy, Run

DEADLINE_S = 20


class Overheard(MemoryBus):
    """Remembers what was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Event] = []

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        self.told += events
        super().publish(events, lists)


@pytest.fixture
def bus() -> Overheard:
    return Overheard()


@asynccontextmanager
async def _still(database: Database, bus: Overheard) -> AsyncGenerator[Rig]:
    """Nobody works, and the clock stands."""
    async with rig(database, bus=bus, works=False) as parley:
        log = Log(database, bus, lambda: NOON)
        yield replace(parley, engine=replace(parley.engine, log=log, clock=log.clock, dispatcher=Forgetful()))


@pytest.fixture
async def still(doubtful: Doubtful, bus: Overheard) -> AsyncGenerator[Rig]:
    async with _still(doubtful, bus) as parley:
        yield parley


async def _held(parley: Rig, writer: Writer, conversation_id: str) -> Pen:
    """That of the run that is next there."""
    lease = await advance(parley.engine, "worker-1", conversation_id)
    assert lease is not None
    return Pen(lease, writer)


async def _asked(parley: Rig, writer: Writer) -> Pen:
    """That of the first run of a new conversation."""
    conversation = await parley.conversation()
    await parley.say(conversation.id, "Hi")
    return await _held(parley, writer, conversation.id)


def _whole(pen: Pen, text: str) -> list[Write]:
    return [Whole(a_message(pen.conversation_id, run_id=pen.lease.run.id, ordinal=None, sequence=0, text=text))]


def _open(pen: Pen, text: str) -> list[Write]:
    message = a_message(pen.conversation_id, run_id=pen.lease.run.id, status=MessageStatus.IN_PROGRESS, ordinal=None, sequence=0)
    return [Open(message), Append(message.id, message.type, None, 0, text)]


@asynccontextmanager
async def _writing(writer: Writer) -> AsyncGenerator[None]:
    task = asyncio.create_task(writer.run(), name="writer")
    async with asyncio.timeout(DEADLINE_S):
        yield
    task.cancel()
    await asyncio.wait([task])


async def _told_is_stored(parley: Rig, bus: Overheard, *conversation_ids: str) -> None:
    """Each event of these conversations was told once, as it is stored, and nothing else was."""
    for conversation_id in conversation_ids:
        told = sorted((event for event in bus.told if event.conversation_id == conversation_id), key=lambda event: event.sequence)
        assert [_shape(event) for event in told] == [_shape(event) for event in await parley.stored(conversation_id)]


def _shape(event: Event) -> tuple[int, str | None, str, str]:
    return event.sequence, event.run_id, type(event.payload).__name__, _text(event)


def _text(event: Event) -> str:
    match event.payload:
        case MessageDelta(_, _, _, text):
            return text
        case MessageCompleted(message) if message.type is MessageType.ASSISTANT:
            return message.text
        case _:
            return ""


async def _said(parley: Rig, run: Run) -> list[str]:
    return [text for event in await parley.stored(run.conversation_id) if event.run_id == run.id and (text := _text(event))]


# ---- what is in the log at the numbers of a batch in doubt


async def _cancel(parley: Rig, run: Run) -> None:
    await cancel_run(parley.engine, TENANT, run.id)


async def _interrupt(parley: Rig, run: Run) -> None:
    await parley.say(run.conversation_id, "Stop.", when_busy=BusyPolicy.INTERRUPT)


async def _take_over(parley: Rig, run: Run) -> None:
    assert await advance(parley.engine, "worker-2", run.conversation_id) is not None


Meddling = Callable[[Rig, Run], Awaitable[None]]

meddled = pytest.mark.parametrize("meddle", [_cancel, _interrupt, _take_over])


@meddled
async def test_what_others_write_for_a_run_does_not_prove_that_its_lost_batch_was_committed(
    still: Rig, doubtful: Doubtful, bus: Overheard, meddle: Meddling
) -> None:
    writer = Writer(still.engine)
    first, other = sorted([await _asked(still, writer) for _ in range(2)], key=lambda pen: pen.conversation_id)
    number = (await still.read(first.conversation_id)).head_sequence + 1
    doubtful.whose, doubtful.fates = "writer", iter([Fate.LOST])
    doubtful.meanwhile = partial(meddle, still, first.lease.run)
    for pen in (first, other):
        pen.write(*_whole(pen, "a word"))
    async with _writing(writer):
        await other.flush()
        with pytest.raises(LeaseLost):
            await first.flush()
    there = next(event for event in await still.stored(first.conversation_id) if event.sequence == number)
    assert there.run_id == first.lease.run.id, "else it could not be mistaken"
    assert await _said(still, first.lease.run) == []
    assert await _said(still, other.lease.run) == ["a word"]
    await _told_is_stored(still, bus, first.conversation_id, other.conversation_id)


@meddled
@pytest.mark.parametrize("script", [_open, _whole])
async def test_what_was_committed_is_found_whatever_others_have_written_since(
    still: Rig, doubtful: Doubtful, bus: Overheard, meddle: Meddling, script: Callable[[Pen, str], list[Write]]
) -> None:
    writer = Writer(still.engine)
    pens = [await _asked(still, writer) for _ in range(2)]
    first, other = sorted(pens, key=lambda pen: pen.conversation_id)
    doubtful.whose, doubtful.fates = "writer", iter([Fate.KEPT])
    doubtful.meanwhile = partial(meddle, still, first.lease.run)
    for pen in pens:
        pen.write(*script(pen, "a word"))
    async with _writing(writer):
        for pen in pens:
            await pen.flush()
        for pen in pens:
            pen.write(*_whole(pen, "and another"))
        await other.flush()
        with pytest.raises(LeaseLost):
            await first.flush()
    assert "and another" not in await _said(still, first.lease.run)
    assert await _said(still, other.lease.run) == ["a word", "and another"]
    await _told_is_stored(still, bus, *(pen.conversation_id for pen in pens))


# ---- several pens of one conversation in one batch


async def _next_run(parley: Rig, writer: Writer, lost: Pen) -> Pen:
    await cancel_run(parley.engine, TENANT, lost.lease.run.id)
    await parley.say(lost.conversation_id, "And now?")
    return await _held(parley, writer, lost.conversation_id)


async def _same_run(parley: Rig, writer: Writer, lost: Pen) -> Pen:
    await hand_over(parley.engine, lost.lease)
    return await _held(parley, writer, lost.conversation_id)


@pytest.mark.parametrize("follow", [_next_run, _same_run])
@pytest.mark.parametrize("fate", [Fate.ANSWERED, Fate.LOST, Fate.KEPT])
@pytest.mark.parametrize("lost_first", [True, False], ids=["the lost first", "the lost last"])
async def test_of_two_pens_of_one_conversation_in_one_batch_only_that_of_the_lease_writes(
    still: Rig,
    doubtful: Doubtful,
    bus: Overheard,
    follow: Callable[[Rig, Writer, Pen], Awaitable[Pen]],
    fate: Fate,
    lost_first: bool,
) -> None:
    """A silent run was ended, or let go of, in the middle of its text, and its worker does not know it yet."""
    writer = Writer(still.engine)
    lost = await _asked(still, writer)
    async with _writing(writer):
        cut = await _begun(lost)
        holder = await follow(still, writer, lost)
        going_on = await _begun(holder)
        holder.write(_delta(going_on, 3, " two"))
        await holder.flush()
        doubtful.whose, doubtful.fates = "writer", iter([fate])
        never = [_delta(cut, 3, " never"), Close(replace(cut, status=MessageStatus.COMPLETED, text="one never"))]
        for pen in (lost, holder) if lost_first else (holder, lost):
            pen.write(*(never if pen is lost else [_delta(going_on, 7, " three")]))
        await holder.flush()
        with pytest.raises(LeaseLost):
            await lost.flush()
        holder.write(_delta(going_on, 13, " four"))
        await holder.flush()
    stored = await still.stored(lost.conversation_id)
    assert texts(stored) == {(cut.id, None): "one", (going_on.id, None): "one two three four"}
    await _told_is_stored(still, bus, lost.conversation_id)


async def _begun(pen: Pen) -> Message:
    """A message that says "one" so far."""
    started, first = _open(pen, "one")
    pen.write(started, first)
    await pen.flush()
    assert isinstance(started, Open)
    return started.message


def _delta(message: Message, offset: int, text: str) -> Append:
    return Append(message.id, message.type, None, offset, text)


# ---- refusals


async def test_a_batch_that_was_refused_is_known_not_to_have_been_committed(still: Rig, bus: Overheard) -> None:
    """One run's number is taken already: nothing that a run does leads there, but should it happen it stops that run alone."""
    writer = Writer(still.engine)
    refused, other = [await _asked(still, writer) for _ in range(2)]
    head = (await still.read(refused.conversation_id)).head_sequence
    squatter = MessageCompleted(a_message(refused.conversation_id))
    async with still.database.write() as connection:
        await events.append(connection, [Event(refused.conversation_id, head + 1, NOON, refused.lease.run.id, squatter)])
    for pen in (refused, other):
        pen.write(*_whole(pen, "a word"))
    with statements() as asked:
        async with _writing(writer):
            await other.flush()
            with pytest.raises(WriteRefused):
                await refused.flush()
    assert not [statement for statement in asked if statement.startswith("SELECT events.")], "its fate was no question"
    assert await _said(still, other.lease.run) == ["a word"]
    await _told_is_stored(still, bus, other.conversation_id)
