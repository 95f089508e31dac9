"""The worker's machines: the heartbeat, the reconciler, the expiry of approvals, the pruner, and letting go in an orderly way."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from db import runs, tables, workers
from db.engine import Database, PostgresLimits
from db.workers import LeaseState
from runs.commands.send import NewMessage, Send, send
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.advance import advance, release
from runs.workers.worker import WorkerLimits
from tests.db.patience import PATIENT
from tests.db.rows import a_run
from tests.rig import TENANT, Rig, rig
from tests.runs.doubt import Forgetful, Interrupted, Unheard, Wordless
from tests.runs.logs import checked, eventually, only, said, until
from tests.runs.scripted import Models, Scripted, call, finished, text
from tests.runs.values import THEN
from vocabulary.events import MessageDelta
from vocabulary.ids import Noun, new_id
from vocabulary.messages import InputRole, MessageStatus, MessageType, TextPart
from vocabulary.runs import Run, RunStatus

SILENT = WorkerLimits(sole=False, lease_s=60, reconcile_s=60)


def _half() -> Scripted:
    """A model that falls silent in the middle of its first answer."""
    return Scripted([*text("Half")[:-1], asyncio.Event()])


# ---- the heartbeat


async def test_the_heartbeat_cancels_what_is_held_no_longer_and_nothing_else(database: Database) -> None:
    gate = asyncio.Event()
    taken, kept = Scripted([*text("Half")[:-1], asyncio.Event()], handle="test/taken"), Scripted([gate, *text("Whole."), *finished()])
    limits = WorkerLimits(sole=False, lease_s=3, reconcile_s=60)
    async with rig(database, models=Models(taken, kept), worker_limits=limits) as parley:
        lost, going_on = await parley.conversation(model="test/taken"), await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, "Hi") for conversation in (lost, going_on)]
        await until(parley, lost.id, said("Half"))
        await _take_away(parley, sent[0].run)
        await asyncio.wait_for(taken.left.wait(), 20)
        gate.set()
        assert (await parley.ended(sent[1].run)).status is RunStatus.COMPLETED
        assert not kept.left.is_set()


async def _take_away(parley: Rig, run: Run) -> None:
    """As another worker does it that has found the lease to be over."""
    async with parley.engine.log.transaction() as transaction:
        head = await transaction.lock(run.conversation_id)
        assert head is not None
        head.fence += 1
        await workers.register(transaction.connection, "worker-x", 60)
        await transaction.connection.execute(update(tables.runs).where(tables.runs.c.id == run.id).values(worker_id="worker-x"))


async def test_the_heartbeat_keeps_the_lease(database: Database) -> None:
    limits = WorkerLimits(sole=False, lease_s=3, reconcile_s=60)
    async with rig(database, worker_limits=limits) as parley:
        first = await _lease(parley)

        async def renewed() -> bool:
            return await _lease(parley) > first

        await eventually(renewed)


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_the_heartbeat_keeps_the_lease_though_all_connections_are_taken(database_url: str) -> None:
    database = Database.open(database_url, postgres=PostgresLimits(pool_size=2, idle_in_transaction_s=60))
    limits = WorkerLimits(sole=False, lease_s=3, reconcile_s=60)
    async with rig(database, worker_limits=limits) as parley, database.write(), database.write():
        first = await _lease(parley)

        async def renewed_for_long() -> bool:
            return await _lease(parley) > first + 2

        await eventually(renewed_for_long)
    await database.close()


async def _lease(parley: Rig) -> float:
    async with parley.database.read() as connection:
        query = select(tables.workers.c.lease_expires_at).where(tables.workers.c.id == parley.worker.id)
        return (await connection.execute(query)).scalar_one().timestamp()


# ---- a lease that is over


async def test_a_worker_that_was_forgotten_registers_again_and_lets_go_of_what_it_held(database: Database) -> None:
    """As after an outage of hours, when another worker's pruner comes before its heartbeat: to all others it is gone."""
    model = _half()
    limits = WorkerLimits(sole=False, lease_s=5, reconcile_s=0.05)
    async with rig(database, models=Models(model), worker_limits=limits) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        async with database.write() as connection:
            await connection.execute(update(tables.workers).values(lease_expires_at=THEN))
            await workers.forget_gone(connection, gone_s=3600)
        await asyncio.wait_for(model.left.wait(), 20)
        async with database.read() as connection:
            assert await workers.lease_of(connection, parley.worker.id) is LeaseState.HELD
        run = await parley.ended(sent.run)
        assert (run.status, run.attempt, run.worker_id) == (RunStatus.COMPLETED, 1, parley.worker.id)
        await checked(parley, conversation.id)


@pytest.fixture
async def unheard(database_url: str) -> AsyncGenerator[Unheard]:
    opened = Unheard.open(database_url, postgres=PATIENT)
    yield opened
    await opened.close()


async def test_a_worker_whose_lease_is_over_takes_nothing_until_it_has_one_again(unheard: Unheard) -> None:
    model = _half()
    limits = WorkerLimits(sole=False, lease_s=3, reconcile_s=0.05)
    async with rig(unheard, models=Models(model), worker_limits=limits) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, "Hi")]
        await until(parley, conversation.id, said("Half"))
        unheard.deaf = True
        await asyncio.wait_for(model.left.wait(), 20)
        sent.append(await parley.say((await parley.conversation(model="test/scripted")).id, "Hi"))
        missed = unheard.missed

        async def is_past_several_looks() -> bool:
            return unheard.missed > missed + 2

        await eventually(is_past_several_looks)
        assert len(model.requests) == 1
        unheard.deaf = False
        ended = [await parley.ended(one.run) for one in sent]
        assert [(run.status, run.attempt) for run in ended] == [(RunStatus.COMPLETED, 1)] * 2


@pytest.fixture
async def wordless(database_url: str) -> AsyncGenerator[Wordless]:
    opened = Wordless.open(database_url, postgres=PATIENT)
    assert isinstance(opened, Wordless)
    opened.refused = asyncio.Event()
    yield opened
    await opened.close()


async def test_what_comes_too_late_does_not_stop_the_run_that_was_taken_again(wordless: Wordless) -> None:
    """What it wrote before it was let go of is refused when its worker works on it anew."""
    more, again, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
    half = [*text("Half")[:-1], more, *text(" more", index=1)[:-1], asyncio.Event()]
    model = Scripted(half, [again.set, *text("Again")[:-1], gate, *text("Again")[-1:], *finished()])
    async with rig(wordless, models=Models(model), worker_limits=SILENT) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        wordless.mute = True
        more.set()
        await asyncio.wait_for(wordless.refused.wait(), 20)
        parley.engine.log.bus.signal(parley.worker.id, sent.run.id)
        await asyncio.wait_for(model.left.wait(), 20)
        model.left.clear()
        await release(parley.engine, parley.worker.id, conversation.id, working_on=())
        await asyncio.wait_for(again.wait(), 20)
        wordless.mute = False
        await until(parley, conversation.id, said("Again"))  # the writer has tried what stood before it in line
        assert not model.left.is_set()
        gate.set()
        assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        assert len(model.requests) == 2
        await checked(parley, conversation.id)


async def test_who_takes_a_run_again_stops_what_still_works_on_it(database: Database) -> None:
    """It came back by way of others before a heartbeat could tell."""
    model = _half()
    async with rig(database, models=Models(model), worker_limits=SILENT) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        await release(parley.engine, parley.worker.id, conversation.id, working_on=())
        await asyncio.wait_for(model.left.wait(), 20)
        assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)


async def test_a_run_in_doubt_that_cannot_be_read_does_not_end_its_worker(database: Database) -> None:
    """As a newer version may have written it."""
    limits = WorkerLimits(sole=False, lease_s=2, reconcile_s=0.05)
    with capture_logs() as logs:
        async with rig(database, worker_limits=limits) as parley:
            unreadable, another = [await parley.conversation() for _ in range(2)]
            await _hold_unreadable(database, unreadable.id, parley.worker.id)

            async def tried() -> bool:
                return any(entry["event"] == "a run that we may hold could not be let go of" for entry in logs)

            await eventually(tried)
            assert (await parley.ended((await parley.say(another.id, "Hi")).run)).status is RunStatus.COMPLETED


async def _hold_unreadable(database: Database, conversation_id: str, worker_id: str) -> None:
    run = a_run(conversation_id, worker_id=worker_id)
    async with database.write() as connection:
        await runs.create(connection, run)
        await connection.execute(update(tables.runs).where(tables.runs.c.id == run.id).values(kind="DREAM"))
        held = tables.heads.c.conversation_id == conversation_id
        await connection.execute(update(tables.heads).where(held).values(active_run_id=run.id))


# ---- letting go


@pytest.mark.parametrize("limits", [WorkerLimits(sole=True), SILENT], ids=["sole", "one of several"])
async def test_an_orderly_stop_hands_over_and_costs_no_attempt(database: Database, limits: WorkerLimits) -> None:
    model = _half()
    async with rig(database, models=Models(model), worker_limits=limits) as first:
        conversation = await first.conversation(model="test/scripted")
        sent = [await first.say(conversation.id, words) for words in ("First", "Second")]
        await until(first, conversation.id, said("Half"))
    assert model.left.is_set()
    async with database.read() as connection:
        assert (await connection.execute(select(tables.workers.c.id))).all() == []
        assert (await connection.execute(select(tables.runs.c.worker_id).where(tables.runs.c.status == "RUNNING"))).all() == [(None,)]
    async with rig(database, models=Models(next_model := Scripted()), worker_limits=limits) as second:
        ended = [await second.ended(one.run) for one in sent]
        assert [(run.status, run.attempt) for run in ended] == [(RunStatus.COMPLETED, 1)] * 2
        await checked(second, conversation.id)
        half, done = [message for message in await second.history(conversation.id) if message.run_id == ended[0].id][1:]
        assert (half.text, half.status, half.in_context) == ("Half", MessageStatus.INTERRUPTED, False)
        assert (done.text, done.status) == ("Done.", MessageStatus.COMPLETED)
        assert len(next_model.requests) == 2


@pytest.mark.parametrize("limits", [WorkerLimits(sole=True), SILENT], ids=["sole", "one of several"])
async def test_a_stop_while_a_run_is_being_taken_costs_no_attempt(interrupted: Interrupted, limits: WorkerLimits) -> None:
    async with rig(interrupted, models=Models(Scripted()), worker_limits=limits) as first:
        conversation = await first.conversation(model="test/scripted")
        [working] = [task for task in asyncio.all_tasks() if task.get_name() == "worker"]
        interrupted.whose, interrupted.interrupt = "advance", working.cancel
        sent = await first.say(conversation.id, "Hi")
        await asyncio.wait([working], timeout=20)
    async with interrupted.read() as connection:
        taken = (await connection.execute(select(tables.runs.c.status, tables.runs.c.worker_id))).all()
        assert taken == [(RunStatus.RUNNING.value, None)]
    async with rig(interrupted, models=Models(Scripted()), worker_limits=limits) as second:
        ended = await second.ended(sent.run)
        assert (ended.status, ended.attempt) == (RunStatus.COMPLETED, 1)
        await checked(second, conversation.id)


async def test_a_worker_that_stops_takes_nothing_new(database: Database) -> None:
    async with rig(database) as first:
        conversation = await first.conversation()
    first.worker.advance_soon(conversation.id)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("advance")]


# ---- the reconciler


async def test_a_lost_job_is_found(database: Database) -> None:
    async with rig(database, worker_limits=WorkerLimits(sole=database.is_sqlite, reconcile_s=0.05)) as parley:
        conversation = await parley.conversation()
        request = Send(conversation_id=conversation.id, messages=(NewMessage(role=InputRole.USER, content=(TextPart("Hi"),)),))
        sent = await send(replace(parley.engine, dispatcher=Forgetful()), TENANT, request)
        run = await parley.ended(sent.run)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)


async def test_what_was_queued_before_the_start_is_found_at_the_start(database: Database) -> None:
    async with rig(database, worker_limits=SILENT) as first:
        conversation = await first.conversation()
        request = Send(conversation_id=conversation.id, messages=(NewMessage(role=InputRole.USER, content=(TextPart("Hi"),)),))
        sent = await send(replace(first.engine, dispatcher=Forgetful()), TENANT, request)
    async with rig(database, worker_limits=SILENT) as second:
        assert (await second.ended(sent.run)).status is RunStatus.COMPLETED


async def test_a_run_that_lost_its_worker_gets_the_next_place_though_the_queue_is_never_empty(database: Database) -> None:
    async with rig(database, worker_limits=WorkerLimits(sole=database.is_sqlite, concurrency=1, lease_s=5, reconcile_s=0.05)) as parley:
        conversation, *others = [await parley.conversation() for _ in range(13)]
        talking = [asyncio.create_task(_talks_on(parley, other.id), name="somebody who talks on") for other in others]
        request = Send(conversation_id=conversation.id, messages=(NewMessage(role=InputRole.USER, content=(TextPart("Hi"),)),))
        sent = await send(replace(parley.engine, dispatcher=Forgetful()), TENANT, request)
        assert await advance(parley.engine, new_id(Noun.WORKER), conversation.id)
        run = await parley.ended(sent.run)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
        assert not [task for task in talking if task.done()]
        for task in talking:
            task.cancel()
        await asyncio.wait(talking)


async def _talks_on(parley: Rig, conversation_id: str) -> None:
    while True:
        await parley.ended((await parley.say(conversation_id, "And then?")).run)


# ---- the expiry of approvals


async def test_a_call_that_cannot_be_read_does_not_keep_others_from_expiring(database: Database) -> None:
    """As a newer version may have written it."""

    async def run(_arguments: Arguments, _context: ToolContext) -> str:
        return "seen"

    asks = ServerTool(name="saw", description="Sees.", parameters={"type": "object"}, run=run, requires_approval=True)
    model = Scripted([*call("saw", "{}"), *finished()], [*call("saw", "{}"), *finished()])
    limits = WorkerLimits(sole=database.is_sqlite)
    async with rig(database, models=Models(model), tools=[asks], worker_limits=limits) as first:
        unreadable, readable = [await first.conversation(model="test/scripted", tools=["saw"]) for _ in range(2)]
        for conversation in (unreadable, readable):
            await first.ended((await first.say(conversation.id, "Hi")).run)
        await _make_unreadable(database, unreadable.id)
    limits = replace(limits, approval_expiry_s=0.01)
    async with rig(database, models=Models(Scripted()), tools=[asks], worker_limits=limits) as second:

        async def denied() -> bool:
            return (await second.read(readable.id)).pending_message_id is None

        await eventually(denied)
        assert (await second.read(unreadable.id)).pending_message_id is not None
        another = await second.conversation(model="test/scripted")
        assert (await second.ended((await second.say(another.id, "Hi")).run)).status is RunStatus.COMPLETED


async def _make_unreadable(database: Database, conversation_id: str) -> None:
    calls = (tables.messages.c.conversation_id == conversation_id) & (tables.messages.c.type == MessageType.TOOL_CALL.value)
    body = {"tool_calls": [{"id": "call-1", "name": "saw", "state": "PAUSED", "source": "BUILTIN"}]}
    async with database.write() as connection:
        await connection.execute(update(tables.messages).where(calls).values(body=body))


# ---- the pruner


async def test_the_pruner_removes_old_deltas_and_leaves_texts_and_what_is_being_written(database: Database) -> None:
    limits = WorkerLimits(sole=database.is_sqlite, prune_s=0.05, delta_retention_s=0)
    async with rig(database, models=Models(_half()), worker_limits=limits) as parley:
        writing = await parley.conversation(model="test/scripted")
        await parley.say(writing.id, "Hi")
        await until(parley, writing.id, said("Half"))
        written = await parley.conversation()
        await parley.ended((await parley.say(written.id, "/think Hello there")).run)

        async def pruned() -> bool:
            return not any(isinstance(event.payload, MessageDelta) for event in await parley.stored(written.id))

        await eventually(pruned)
        assert only(await parley.history(written.id), MessageType.ASSISTANT).text == "You said: /think Hello there"
        kept = [event.payload.text for event in await parley.stored(writing.id) if isinstance(event.payload, MessageDelta)]
        assert kept == ["Half"]
        assert only(await parley.history(writing.id), MessageType.ASSISTANT).text == "Half"


async def test_young_deltas_are_not_pruned(database: Database) -> None:
    limits = WorkerLimits(sole=database.is_sqlite, prune_s=0.01, delta_retention_s=3600)
    async with rig(database, worker_limits=limits) as parley:
        conversation = await parley.conversation()
        for _ in range(5):
            await parley.ended((await parley.say(conversation.id, "Hello there")).run)
        await checked(parley, conversation.id)
