"""The writer: batches under fences, commits whose outcome is unknown, and what one run's trouble does to the others."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, cycle, repeat

import pytest
from sqlalchemy import text as sql

from db.engine import Connection, Database
from llm.model import Delta, ToolCallStarted
from runs.workers.worker import WorkerLimits
from tests.rig import Rig, collect, rig
from tests.runs.doubt import Doubtful, Fate, Proxy
from tests.runs.logs import checked, eventually, only, running, said, statuses, until
from tests.runs.scripted import Cue, Models, Scripted, call, finished, gated, reasoning, text
from vocabulary.events import CaughtUp, DeltaMode, Event, Item, MessageDelta, MessageStarted, RunChanged
from vocabulary.messages import MessageStatus, MessageType
from vocabulary.runs import TERMINAL_STATUSES, RunErrorType, RunStatus

PIECES = ("Once ", "upon ", "a ", "time")

# ---- commits whose outcome is unknown


async def _watched(parley: Rig, conversation_id: str, gates: Sequence[asyncio.Event], *, runs: int = 1) -> list[Item]:
    """What a subscriber gets until so many runs are over. With each delta it opens the next gate, so that each is a commit of its own."""
    closed, left = iter(gates), runs

    def over(item: Item) -> bool:
        nonlocal left
        if isinstance(item.payload, MessageDelta) and (gate := next(closed, None)):
            gate.set()
        left -= isinstance(item.payload, RunChanged) and item.payload.status in TERMINAL_STATUSES
        return left == 0

    return await collect(parley.reader.follow(conversation_id, after=0, mode=DeltaMode.ALL), over)


def _same(events: Sequence[Event], items: Iterable[Item]) -> bool:
    """Whether the subscriber got every event, once, with what is stored. The last one comes after the run's end."""
    got = [item for item in items if not isinstance(item.payload, CaughtUp)]
    return [(event.sequence, _text(event.payload)) for event in events[:-1]] == [(item.sequence, _text(item.payload)) for item in got]


def _text(payload: object) -> str:
    return payload.text if isinstance(payload, MessageDelta) else type(payload).__name__


DOUBTS = {
    "none was lost": lambda: repeat(Fate.KEPT),
    "each was lost once": lambda: cycle([Fate.LOST, Fate.ANSWERED]),
    "each was lost and then kept": lambda: cycle([Fate.LOST, Fate.KEPT]),
    "some": lambda: cycle([Fate.KEPT, Fate.LOST, Fate.ANSWERED]),
}


@pytest.mark.parametrize("fates", DOUBTS.values(), ids=DOUBTS.keys())
async def test_a_batch_that_may_have_been_committed_is_neither_lost_nor_written_twice(
    doubtful: Doubtful, fates: type[Iterator[Fate]]
) -> None:
    cues, gates = gated(*PIECES)
    script = [*reasoning("Hm."), *cues, *call("nobody", "{}", index=1), *finished()]
    async with rig(doubtful, models=Models(Scripted(script))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        doubtful.whose, doubtful.fates = "writer", fates()
        sent = await parley.say(conversation.id, "Hi")
        items = await _watched(parley, conversation.id, gates)
        run = await parley.ended(sent.run)
        events = await checked(parley, conversation.id)
        assert (run.status, run.attempt, run.usage.requests) == (RunStatus.COMPLETED, 1, 2)
        assert [m.text for m in await parley.history(conversation.id) if m.type is MessageType.ASSISTANT] == ["Once upon a time", "Done."]
        assert _same(events, items)


async def test_in_doubt_about_the_end_of_a_run_the_next_one_starts_all_the_same(doubtful: Doubtful) -> None:
    gate = asyncio.Event()
    async with rig(doubtful, models=Models(Scripted([gate, *text("One."), *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, words) for words in ("First", "Second", "Third")]
        doubtful.whose, doubtful.fates = "writer", repeat(Fate.KEPT)
        gate.set()
        for one in sent:
            assert (await parley.ended(one.run)).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)


async def test_many_runs_of_one_batch_are_all_settled_after_a_doubt(doubtful: Doubtful) -> None:
    doubtful.whose, doubtful.fates = "writer", chain([Fate.KEPT, Fate.LOST] * 5)
    async with rig(doubtful) as parley:
        talks = [await parley.conversation() for _ in range(20)]
        sent = await asyncio.gather(*(parley.say(conversation.id, "Hi there") for conversation in talks))
        for one in sent:
            assert (await parley.ended(one.run)).status is RunStatus.COMPLETED
        for conversation in talks:
            await checked(parley, conversation.id)
            assert (await parley.history(conversation.id))[-1].text == "You said: Hi there"


@pytest.mark.parametrize("fate", [Fate.KEPT, Fate.LOST])
async def test_a_run_whose_start_is_in_doubt_is_answered(doubtful: Doubtful, fate: Fate) -> None:
    async with rig(doubtful, worker_limits=WorkerLimits(sole=doubtful.is_sqlite, lease_s=5, reconcile_s=0.1)) as parley:
        conversation = await parley.conversation()
        doubtful.whose, doubtful.fates = "advance", iter([fate])
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        await checked(parley, conversation.id)


# ---- the same with a real wire that is cut

WRITTEN = {"the start": b'"status":"RUNNING"', "a delta": b"upon ", "the end": b'"status":"COMPLETED"'}


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("fate", [Fate.KEPT, Fate.LOST, Fate.LATE])
async def test_a_connection_cut_at_its_commit_loses_nothing_and_doubles_nothing(database_url: str, fate: Fate, written: bytes) -> None:
    cues, gates = gated(*PIECES)
    async with Proxy(database_url) as proxy:
        database = Database.open(proxy.url)
        limits = WorkerLimits(sole=False, lease_s=5, reconcile_s=0.1)
        async with rig(database, models=Models(Scripted([*cues, *finished()])), worker_limits=limits) as parley:
            conversation = await parley.conversation(model="test/scripted")
            proxy.cut(written, [fate], again=b"FOR NO KEY UPDATE")
            sent = await parley.say(conversation.id, "Hi")
            items = await _watched(parley, conversation.id, gates)
            run = await parley.ended(sent.run)
            events = await checked(parley, conversation.id)
            assert proxy.cuts == 1
            assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
            assert only(await parley.history(conversation.id), MessageType.ASSISTANT).text == "Once upon a time"
            assert _same(events, items)
        await database.close()


# ---- fences


async def test_a_run_whose_fence_was_raised_writes_nothing_more_and_the_others_go_on(database: Database) -> None:
    cut, other = Pausing("test/cut"), Pausing("test/other")
    async with rig(database, models=Models(cut.model, other.model)) as parley:
        lost, going_on = [await parley.conversation(model=model.handle) for model in (cut.model, other.model)]
        sent = [await parley.say(conversation.id, "Hi") for conversation in (lost, going_on)]
        for conversation in (lost, going_on):
            await until(parley, conversation.id, said("before"))
        async with parley.engine.log.transaction() as transaction:
            head = await transaction.lock(lost.id)
            assert head is not None
            head.fence += 1
            for paused in (cut, other):
                paused.first.set()
            await _somebody_waits_for_a_lock(parley, transaction.connection)
            for paused in (cut, other):
                paused.second.set()
                await paused.said_both.wait()
        before = await parley.stored(lost.id)
        other.third.set()
        assert (await parley.ended(sent[1].run)).status is RunStatus.COMPLETED
        cut.third.set()
        await asyncio.wait_for(cut.model.left.wait(), 20)
        await checked(parley, going_on.id)
        assert only(await parley.history(going_on.id), MessageType.ASSISTANT).text == "before one two three"
        assert await parley.stored(lost.id) == before
        assert [event.payload.text for event in before if isinstance(event.payload, MessageDelta)] == ["before"]
        assert statuses(before, sent[0].run.id)[-1] is RunStatus.RUNNING


class Pausing:
    """A model that says "before" and then goes on word by word as it may."""

    def __init__(self, handle: str) -> None:
        self.first, self.second, self.said_both, self.third = (asyncio.Event() for _ in range(4))
        started, before, one, two, three, ended = text("before", " one", " two", " three")
        script: list[Cue] = [started, before, self.first, one, self.second, two, self.said_both.set, self.third, three, ended]
        self.model = Scripted([*script, *finished()], handle=handle)


async def _somebody_waits_for_a_lock(parley: Rig, connection: Connection) -> None:
    """On PostgreSQL, where a statement that waits is the dangerous case. On SQLite who waits has not begun."""

    async def waits() -> bool:
        return (await connection.execute(sql("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one() > 0

    if not parley.database.is_sqlite:
        await eventually(waits)


# ---- what a database refuses


UNSTORABLE: dict[str, list[Cue]] = {
    "in a text": [*text("fine")[:-1], Delta(0, "half \ud83d")],
    "in a tool's name": [ToolCallStarted(0, "half \ud83d", None)],
    "in arguments": [*call("nobody", "{")[:-1], Delta(0, "half \ud83d")],
}


@pytest.mark.parametrize("unstorable", UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_what_is_refused_for_its_data_fails_its_own_run_only(database: Database, unstorable: list[Cue]) -> None:
    gate = asyncio.Event()
    refused = Scripted([gate, *unstorable, *finished()], handle="test/refused")
    other = Scripted([gate, *text("All ", "well."), *finished()], handle="test/other")
    async with rig(database, models=Models(refused, other)) as parley:
        bad, good = [await parley.conversation(model=model.handle) for model in (refused, other)]
        sent = [await parley.say(conversation.id, "Hi") for conversation in (bad, good)]
        for conversation in (bad, good):
            await until(parley, conversation.id, running)
        gate.set()
        failed, fine = [await parley.ended(one.run) for one in sent]
        assert failed.error is not None
        assert (failed.status, failed.error.type) == (RunStatus.FAILED, RunErrorType.INTERNAL)
        assert (fine.status, only(await parley.history(good.id), MessageType.ASSISTANT).text) == (RunStatus.COMPLETED, "All well.")
        for conversation in (bad, good):
            await checked(parley, conversation.id)
            assert (await parley.ended((await parley.say(conversation.id, "Hi")).run)).status is RunStatus.COMPLETED


# ---- a lot to write


async def test_an_answer_of_many_parts_is_stored_whole_and_in_order(database: Database) -> None:
    many = [cue for number in range(700) for cue in text(f"part {number} ", "of many", index=number)]
    async with rig(database, models=Models(Scripted([*many, *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert run.status is RunStatus.COMPLETED
        await checked(parley, conversation.id)
        answers = (await parley.history(conversation.id))[2:]
        assert [message.text for message in answers] == [f"part {number} of many" for number in range(700)]
        assert {message.status for message in answers} == {MessageStatus.COMPLETED}


async def test_no_more_of_a_run_is_committed_together_than_was_allowed(database: Database) -> None:
    several = [cue for number in range(5) for cue in text("of many", index=number)]
    limits = WorkerLimits(sole=database.is_sqlite, longest_part=1)
    async with rig(database, models=Models(Scripted([*several, *finished()])), worker_limits=limits) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await parley.ended((await parley.say(conversation.id, "Hi")).run)
        told = [event for event in await checked(parley, conversation.id) if isinstance(event.payload, MessageStarted | MessageDelta)]
        assert len({event.occurred_at for event in told}) == len(told) == 10


async def test_what_follows_each_other_in_one_batch_is_one_event(database: Database) -> None:
    words = [f"w{number} " for number in range(200)]
    async with rig(database, models=Models(Scripted([*text(*words), *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await parley.ended((await parley.say(conversation.id, "Hi")).run)
        events = await checked(parley, conversation.id)
        assert len([event for event in events if isinstance(event.payload, MessageDelta)]) < 5
        assert only(await parley.history(conversation.id), MessageType.ASSISTANT).text == "".join(words)
