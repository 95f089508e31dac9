"""Who runs next, and going on with what another worker has left: from the last complete step, and never a tool twice."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from db import tables
from db.engine import Database
from llm.model import ModelRequest, ToolCallTurn, ToolReturnTurn, UserTurn
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.advance import advance
from runs.workers.worker import WorkerLimits
from tests.rig import Rig, rig
from tests.runs.doubt import Forgetful, Mortal
from tests.runs.logs import call_states, checked, only, rows, said, statuses, steps, until
from tests.runs.scripted import USAGE, Models, Scripted, call, finished, reasoning, text
from tests.runs.values import THEN
from vocabulary.messages import MessageStatus, MessageType, ToolReturnBody, ToolReturnStatus
from vocabulary.runs import RunErrorType, RunStatus, StopReason

SILENT = WorkerLimits(sole=False, lease_s=60, reconcile_s=60)
SOLE = WorkerLimits(sole=True, reconcile_s=0.05)
OUTCOME_UNKNOWN = "The tool was started, but its outcome is unknown."


async def test_a_conversation_with_nothing_to_do_is_left_alone(parley: Rig) -> None:
    conversation = await parley.conversation()
    before = await rows(parley.database)
    assert await advance(parley.engine, "worker-x", conversation.id) is None
    assert await advance(parley.engine, "worker-x", "conv-unknown") is None
    assert await rows(parley.database) == before


async def test_a_run_is_started_once_however_many_ask(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(model := Scripted([gate, *text("Once."), *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        for _ in range(20):
            parley.worker.advance_soon(conversation.id)
        gate.set()
        run = await parley.ended(sent.run)
        assert (run.attempt, len(model.requests)) == (1, 1)
        events = await checked(parley, conversation.id)
        assert statuses(events, run.id).count(RunStatus.RUNNING) == 2  # it has begun, its step has begun


async def test_a_worker_never_takes_a_run_from_itself(database: Database) -> None:
    gate = asyncio.Event()
    limits = WorkerLimits(sole=False, lease_s=60, reconcile_s=0.01)
    async with rig(database, models=Models(Scripted([*text("Wait"), gate, *finished()])), worker_limits=limits) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Wait"))
        await _expire_all_leases(parley)
        assert await advance(parley.engine, parley.worker.id, conversation.id) is None
        gate.set()
        assert (await parley.ended(sent.run)).attempt == 1
        await checked(parley, conversation.id)


async def test_a_run_of_a_living_worker_is_not_taken(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(Scripted([*text("Wait"), gate, *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Wait"))
        assert await advance(parley.engine, "worker-x", conversation.id) is None
        gate.set()
        assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED


async def test_a_worker_whose_lease_ran_out_loses_its_run_and_stops(database: Database) -> None:
    slow, quick = Scripted([*text("Half")[:-1], asyncio.Event()]), Scripted([*text("Whole."), *finished()])
    limits = WorkerLimits(sole=False, lease_s=5, reconcile_s=60)
    async with rig(database, models=Models(slow), worker_limits=limits) as first:
        conversation = await first.conversation(model="test/scripted")
        sent = await first.say(conversation.id, "Hi")
        await until(first, conversation.id, said("Half"))
        async with rig(database, models=Models(quick), worker_limits=WorkerLimits(sole=False, lease_s=5, reconcile_s=0.05)) as second:
            expiring = asyncio.create_task(_keep_expired(second, but=second.worker.id))
            run = await second.ended(sent.run)
            assert (run.status, run.attempt, run.worker_id) == (RunStatus.COMPLETED, 2, second.worker.id)
            assert second.engine.metrics.registry.get_sample_value("parley_runs_taken_over_total", {"cause": "crash"}) == 1
            await asyncio.wait_for(slow.left.wait(), 20)
            expiring.cancel()
            await checked(second, conversation.id)
            half, whole = (await second.history(conversation.id))[2:]
            assert (half.text, half.status, half.in_context) == ("Half", MessageStatus.INTERRUPTED, False)
            assert (whole.text, whole.status, whole.in_context) == ("Whole.", MessageStatus.COMPLETED, True)
            assert run.started_at is not None
            assert run.time_to_first_token_ms == round((half.created_at - run.started_at).total_seconds() * 1000)


async def test_a_lease_that_ran_out_is_not_enough_for_a_job(database: Database) -> None:
    """Only who has watched its worker for a while may hold it for dead; who has retired has let go of everything."""
    async with rig(database, models=Models(Scripted([*text("Wait"), asyncio.Event()])), worker_limits=SILENT) as first:
        conversation = await first.conversation(model="test/scripted")
        await first.say(conversation.id, "Hi")
        await until(first, conversation.id, said("Wait"))
        await _expire_all_leases(first)
        assert await advance(first.engine, "worker-x", conversation.id) is None
        assert await advance(first.engine, "worker-x", conversation.id, lost="worker-y") is None
        lease = await advance(first.engine, "worker-x", conversation.id, lost=first.worker.id)
        assert lease is not None
        assert (lease.run.worker_id, lease.run.attempt) == ("worker-x", 2)
        lease = await advance(first.engine, "worker-z", conversation.id)  # nobody has ever registered worker-x
        assert lease is not None
        assert (lease.run.worker_id, lease.run.attempt) == ("worker-z", 3)


async def _keep_expired(parley: Rig, *, but: str) -> None:
    """Whatever heartbeats say."""
    while True:
        await _expire_all_leases(parley, but=but)


async def _expire_all_leases(parley: Rig, *, but: str = "") -> None:
    async with parley.database.write() as connection:
        await connection.execute(update(tables.workers).where(tables.workers.c.id != but).values(lease_expires_at=THEN))


# ---- a worker that is cut off


async def test_a_worker_that_cannot_renew_its_lease_stops_by_itself_and_lets_go_when_it_can(mortal: Mortal) -> None:
    """Others hold it for dead by then. If none of them has come, nobody has crashed."""
    model = Scripted([*text("Half")[:-1], asyncio.Event()])
    async with rig(mortal, models=Models(model), worker_limits=WorkerLimits(sole=False, lease_s=1, reconcile_s=0.05)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        mortal.kill()
        await asyncio.wait_for(model.left.wait(), 20)
        mortal.revive()
        run = await parley.ended(sent.run)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        await checked(parley, conversation.id)


async def test_an_outage_that_is_shorter_than_the_lease_is_waited_out(mortal: Mortal) -> None:
    gate = asyncio.Event()
    model = Scripted([*text("Half", " and half")[:-2], gate, *text("Half", " and half")[2:], *finished()])
    async with rig(mortal, models=Models(model), worker_limits=SILENT) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        mortal.kill()
        gate.set()
        await asyncio.wait_for(mortal.refused.wait(), 20)
        mortal.revive()
        run = await parley.ended(sent.run)
        assert (run.status, run.attempt, len(model.requests)) == (RunStatus.COMPLETED, 1, 1)
        await checked(parley, conversation.id)


async def test_a_run_that_a_worker_holds_without_working_on_it_is_worked_on(database: Database) -> None:
    """As after a bug that has ended its task."""
    async with rig(database, models=Models(Scripted()), worker_limits=WorkerLimits(sole=False, lease_s=5, reconcile_s=0.05)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        forgetful = replace(parley, engine=replace(parley.engine, dispatcher=Forgetful()))
        sent = await forgetful.say(conversation.id, "Hi")
        assert await advance(parley.engine, parley.worker.id, conversation.id) is not None
        assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)


# ---- a worker that dies


class Hammer:
    """A tool with an effect: `blows` counts how often it was run. It strikes at once, and is done when it may be."""

    def __init__(self) -> None:
        self.blows = 0
        self.struck = asyncio.Event()
        self.done = asyncio.Event()

    def tool(self) -> ServerTool:
        async def run(_arguments: Arguments, _context: ToolContext) -> str:
            self.blows += 1
            self.struck.set()
            await self.done.wait()
            return "hit"

        return ServerTool(name="hammer", description="Hits.", parameters={"type": "object"}, run=run)


CALLS_TWO = [*call("hammer", "{}"), *call("hammer", "{}", index=1), *finished()]


async def test_a_tool_call_without_a_return_is_answered_and_not_run_again(mortal: Mortal) -> None:
    hammer, model = Hammer(), Scripted()
    async with rig(mortal, models=Models(Scripted(CALLS_TWO)), tools=[hammer.tool()], worker_limits=SOLE) as first:
        conversation = await first.conversation(model="test/scripted", tools=["hammer"])
        sent = await first.say(conversation.id, "Hit it")
        await hammer.struck.wait()
        mortal.kill()
    mortal.revive()
    async with rig(mortal, models=Models(model), tools=[hammer.tool()], worker_limits=SOLE) as second:
        run = await second.ended(sent.run)
        assert (run.status, run.attempt, hammer.blows) == (RunStatus.COMPLETED, 2, 2)  # two calls, together
        log, history = await checked(second, conversation.id), await second.history(conversation.id)
        returned = only(history, MessageType.TOOL_RETURN).body
        assert isinstance(returned, ToolReturnBody)
        assert {(item.status, item.output) for item in returned.tool_returns} == {(ToolReturnStatus.ERROR, OUTCOME_UNKNOWN)}
        assert call_states(log) == ["INTERRUPTED"] * 8
        [asked] = model.requests
        assert [type(turn) for turn in asked.history] == [UserTurn, ToolCallTurn, ToolReturnTurn]


async def test_the_next_worker_goes_on_from_the_last_complete_step(mortal: Mortal) -> None:
    hammer, model = Hammer(), Scripted()
    hammer.done.set()
    half = [*reasoning("Hm."), *text("Half", index=1)[:-1], asyncio.Event()]
    async with rig(mortal, models=Models(Scripted(CALLS_TWO, half)), tools=[hammer.tool()], worker_limits=SOLE) as first:
        conversation = await first.conversation(model="test/scripted", tools=["hammer"])
        sent = await first.say(conversation.id, "Hit it")
        await until(first, conversation.id, said("Half"))
        mortal.kill()
    mortal.revive()
    async with rig(mortal, models=Models(model), tools=[hammer.tool()], worker_limits=SOLE) as second:
        run = await second.ended(sent.run)
        assert (run.status, run.attempt, hammer.blows) == (RunStatus.COMPLETED, 2, 2)
        await checked(second, conversation.id)
        done = await steps(second, run.id)
        assert [(step.index, step.completed_at is None) for step in done] == [(0, False), (1, True), (2, False)]
        assert [(step.usage.requests, step.usage.estimated) for step in done] == [(1, False), (1, True), (1, False)]
        assert run.usage == USAGE + done[1].usage + USAGE  # who hangs up pays for what was said by then
        left = (await second.history(conversation.id))[4:]
        assert [(message.text, message.status, message.in_context) for message in left] == [
            ("Hm.", MessageStatus.COMPLETED, False),
            ("Half", MessageStatus.INTERRUPTED, False),
            ("Done.", MessageStatus.COMPLETED, True),
        ]
        assert [type(turn) for turn in model.requests[0].history] == [UserTurn, ToolCallTurn, ToolReturnTurn]


async def test_a_run_that_loses_its_worker_too_often_fails_and_the_next_one_starts(mortal: Mortal) -> None:
    silent = [[*text(f"Attempt {attempt}")[:-1], asyncio.Event()] for attempt in (1, 2, 3)]
    model = Scripted(*silent)
    async with rig(mortal, models=Models(model), worker_limits=SOLE) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, words) for words in ("First", "Second")]
        await until(parley, conversation.id, said("Attempt 1"))
        mortal.kill()
    for attempt in (2, 3):
        mortal.revive()
        async with rig(mortal, models=Models(model), worker_limits=SOLE) as parley:
            await until(parley, conversation.id, said(f"Attempt {attempt}"))
            mortal.kill()
    mortal.revive()
    async with rig(mortal, models=Models(model), worker_limits=SOLE) as parley:
        lost, following = [await parley.ended(one.run) for one in sent]
        assert lost.error is not None
        assert (lost.status, lost.stop_reason, lost.error.type, lost.attempt) == (
            RunStatus.FAILED, StopReason.ERROR, RunErrorType.WORKER_LOST, 3,
        )  # fmt: skip
        assert (following.status, following.attempt) == (RunStatus.COMPLETED, 1)
        await checked(parley, conversation.id)
        said_by_first = [message for message in await parley.history(conversation.id) if message.run_id == lost.id][1:-1]
        assert [(message.text, message.status, message.in_context) for message in said_by_first] == [
            ("Attempt 1", MessageStatus.INTERRUPTED, False),
            ("Attempt 2", MessageStatus.INTERRUPTED, False),
            ("Attempt 3", MessageStatus.INTERRUPTED, True),
        ]


# ---- a worker that dies at any of its commits


@pytest.mark.parametrize("keeps_the_last", [False, True])
async def test_wherever_a_worker_dies_the_next_one_brings_its_runs_to_their_end(mortal: Mortal, keeps_the_last: bool) -> None:
    for commits in range(30):
        if await _survives(mortal, commits, keeps_the_last=keeps_the_last):
            assert commits >= 5  # two starts, the marks of the call, its return and the end, the end of the other
            return
    raise AssertionError("it never lived to the end")


async def _survives(mortal: Mortal, commits: int, *, keeps_the_last: bool) -> bool:
    """Whether the first worker saw the end before it was to die at this commit. What holds in any case is asserted."""
    hammer, model = Hammer(), Scripted()
    hammer.done.set()
    says = [*reasoning("Hm."), *text("Let me.", index=1), *call("hammer", "{}", index=2), *finished()]
    waiting = WorkerLimits(sole=True, reconcile_s=60)
    async with rig(mortal, models=Models(Scripted(says)), tools=[hammer.tool()], worker_limits=waiting) as first:
        conversation = await first.conversation(model="test/scripted", tools=["hammer"])
        forgetful = replace(first, engine=replace(first.engine, dispatcher=Forgetful()))
        sent = [await forgetful.say(conversation.id, words) for words in ("Hit it", "And again?")]
        mortal.revive(commits=commits, keeps_the_last=keeps_the_last)
        first.worker.advance_soon(conversation.id)
        await _first_of(first.reader.wait_for_end(sent[1].run, seconds=20), mortal.died.wait())
        survived = not mortal.dead
    mortal.revive()
    async with rig(mortal, models=Models(model), tools=[hammer.tool()], worker_limits=SOLE) as second:
        ended = [await second.ended(one.run) for one in sent]
        assert [run.status for run in ended] == [RunStatus.COMPLETED] * 2
        assert {run.attempt for run in ended} <= {1, 2}
        assert hammer.blows <= 1
        await checked(second, conversation.id)
        assert all(_is_paired(asked) for asked in model.requests)
        assert (await second.ended((await second.say(conversation.id, "Thanks")).run)).status is RunStatus.COMPLETED
    return survived


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_paired(asked: ModelRequest) -> bool:
    """Whether each call is followed by its return."""
    for turn, following in zip(asked.history, [*asked.history[1:], None], strict=True):
        if isinstance(turn, ToolCallTurn):
            returned = following.returns if isinstance(following, ToolReturnTurn) else ()
            if [item.call_id for item in turn.calls] != [item.call_id for item in returned]:
                return False
    return True
