"""Closing runs that have not begun: they leave the line, and what was said with them is still there to be read."""

import asyncio

from db import messages
from db.engine import Database
from runs.close import Ending, close_runs
from runs.workers.worker import WorkerLimits
from tests.rig import Rig, rig
from tests.runs.logs import checked, said, statuses, taken_out, until
from tests.runs.scripted import Models, Scripted, finished, text
from vocabulary.messages import Message, MessageStatus
from vocabulary.runs import Run, RunStatus, StopReason

CANCELLED = Ending(status=RunStatus.CANCELLED, stop_reason=StopReason.CANCELLED)


async def _close(parley: Rig, *closing: Run) -> None:
    async with parley.engine.log.transaction() as transaction:
        head = await transaction.lock(closing[0].conversation_id)
        assert head is not None
        await close_runs(parley.engine, transaction, head, closing, CANCELLED)


async def _of_run(parley: Rig, run: Run) -> list[Message]:
    async with parley.database.read() as connection:
        return await messages.of_run(connection, run.id)


async def test_the_input_of_a_run_that_leaves_the_line_stays_with_its_run_and_never_enters_history(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(model := Scripted([*text("Wait"), gate, *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        first = await parley.say(conversation.id, "First")
        await until(parley, conversation.id, said("Wait"))
        second, third, fourth = [await parley.say(conversation.id, *texts) for texts in (("Second", "and more"), ("Third",), ("Fourth",))]
        await _close(parley, second.run, fourth.run)
        gate.set()
        await parley.ended(third.run)
        events = await checked(parley, conversation.id)
        for out in (second, fourth):
            ended = await parley.ended(out.run)
            assert (ended.status, ended.stop_reason, ended.started_at, ended.usage.requests) == (
                RunStatus.CANCELLED, StopReason.CANCELLED, None, 0,
            )  # fmt: skip
            assert statuses(events, out.run.id) == [RunStatus.QUEUED, RunStatus.CANCELLED]
        assert [(message.text, message.status, message.ordinal, message.in_context) for message in await _of_run(parley, second.run)] == [
            ("Second", MessageStatus.INTERRUPTED, None, False),
            ("and more", MessageStatus.INTERRUPTED, None, False),
        ]
        assert [message.text for message in taken_out(events)] == ["Second", "and more", "Fourth"]
        assert [message.text for message in await parley.history(conversation.id)] == ["Be brief.", "First", "Wait", "Third", "Done."]
        assert len(model.requests) == 2
        assert (await parley.ended(first.run)).status is RunStatus.COMPLETED


async def test_input_that_had_entered_history_stays_there_when_its_run_is_closed_before_it_begins(database: Database) -> None:
    async with rig(database, worker_limits=WorkerLimits(sole=database.is_sqlite, concurrency=0)) as parley:
        conversation = await parley.conversation()
        sent = await parley.say(conversation.id, "First")
        await _close(parley, sent.run)
        assert (await parley.ended(sent.run)).status is RunStatus.CANCELLED
        await checked(parley, conversation.id)
        assert [(message.text, message.status) for message in await parley.history(conversation.id)][1:] == [
            ("First", MessageStatus.COMPLETED)
        ]
