"""The worker's machines: the heartbeat, the reconciler, the pruner, and letting go in an orderly way."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from db import tables, workers
from db.engine import Database, PostgresLimits
from runs.commands.send import NewMessage, Send, send
from runs.workers.worker import WorkerLimits
from tests.rig import TENANT, Rig, rig
from tests.runs.doubt import Forgetful
from tests.runs.logs import checked, eventually, only, said, until
from tests.runs.scripted import Models, Scripted, finished, text
from vocabulary.events import MessageDelta
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
