"""A tool is run once at most for one call, and a call is answered once, whoever dies and whoever answers at the same time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from db.engine import Database
from runs.commands.approvals import Approve, Deny
from runs.commands.cancel import NoActiveRuns, cancel_conversation
from runs.commands.respond import Answer, NoPendingToolCalls, Respond, Responded, respond
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from tests.puppet import NUMBERED
from tests.rig import TENANT, Rig, rig
from tests.runs.consistency import consistent, shown
from tests.runs.doubt import Mortal
from tests.runs.logs import checked
from tests.runs.scripted import Cue, Models, Scripted, call, finished
from vocabulary.runs import RunStatus

SOLE = WorkerLimits(sole=True, reconcile_s=0.05)
on_postgresql = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)


def _tools(used: list[int]) -> list[ServerTool]:
    """`saw` needs an approval. They note which calls they were run for."""

    def tool(name: str, *, requires_approval: bool) -> ServerTool:
        async def run(arguments: Arguments, _context: ToolContext) -> str:
            used.append(arguments["n"])
            return "used"

        return ServerTool(name=name, description="", parameters=NUMBERED, run=run, requires_approval=requires_approval)

    return [tool("saw", requires_approval=True), tool("level", requires_approval=False)]


def _calls(*names: str) -> list[Cue]:
    return [cue for place, name in enumerate(names) for cue in call(name, f'{{"n": {place}}}', index=place)] + finished()


@pytest.mark.parametrize("keeps_the_last", [False, True])
async def test_wherever_a_worker_dies_while_it_asks_nothing_is_run_twice(mortal: Mortal, *, keeps_the_last: bool) -> None:
    for commits in range(30):
        if await _survives(mortal, commits, keeps_the_last=keeps_the_last):
            assert commits >= 3  # the start, the marks of the calls, the end
            return
    raise AssertionError("it never lived to the end")


async def _survives(mortal: Mortal, commits: int, *, keeps_the_last: bool) -> bool:
    """Whether the first worker asked before it was to die at this commit. What holds in any case is asserted."""
    used, calls = list[int](), _calls("level", "saw", "nobody", "level")
    waiting = WorkerLimits(sole=True, reconcile_s=60)
    async with rig(mortal, models=Models(Scripted(calls)), tools=_tools(used), worker_limits=waiting) as first:
        conversation = await first.conversation(model="test/scripted", tools=["saw", "level"])
        mortal.revive(commits=commits, keeps_the_last=keeps_the_last)
        sent = await first.say(conversation.id, "Go")
        await _first_of(first.reader.wait_for_end(sent.run, seconds=20), mortal.died.wait())
        survived = not mortal.dead
    mortal.revive()
    async with rig(mortal, models=Models(Scripted()), tools=_tools(used), worker_limits=SOLE) as second:
        assert (await second.ended(sent.run)).status is RunStatus.COMPLETED
        consistent(await shown(second, conversation.id))
        assert sorted(set(used)) == sorted(used)
        assert 1 not in used  # nobody has approved it
        if (await shown(second, conversation.id)).waiting:
            await second.ended((await _decide(second, conversation.id, Approve())).run)
            assert used.count(1) == 1
        await checked(second, conversation.id)
        consistent(await shown(second, conversation.id))
    return survived


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _decide(parley: Rig, conversation_id: str, decision: Approve | Deny, call_id: str | None = None) -> Responded:
    ids = [call_id] if call_id else [call.id for call in (await shown(parley, conversation_id)).waiting]
    answers = tuple(Answer(tool_call_id=id_, decision=decision) for id_ in ids)
    return await respond(parley.engine, TENANT, Respond(conversation_id=conversation_id, answers=answers))


@on_postgresql
@pytest.mark.parametrize("cancels", [False, True])
async def test_of_two_on_different_machines_one_decides_and_the_other_is_told(
    database: Database, database_url: str, *, cancels: bool
) -> None:
    used, rounds = list[int](), 8
    models = Models(*(Scripted(_calls("level", "saw"), handle=f"test/{number}") for number in range(rounds)))
    elsewhere = Database.open(database_url)
    limits = WorkerLimits(sole=False, reconcile_s=0.05)
    async with (
        rig(database, models=models, tools=_tools(used), worker_limits=limits) as here,
        rig(elsewhere, models=models, tools=_tools(used), works=False) as there,
    ):
        for number in range(rounds):
            used.clear()
            conversation = await here.conversation(model=f"test/{number}", tools=["saw", "level"])
            await here.ended((await here.say(conversation.id, "Go")).run)
            [waiting] = (await shown(here, conversation.id)).waiting
            outcomes = await asyncio.gather(
                _decide(here, conversation.id, Approve(), waiting.id),
                cancel_conversation(there.engine, TENANT, conversation.id)
                if cancels
                else _decide(there, conversation.id, Deny(), waiting.id),
                return_exceptions=True,
            )
            told = [one for one in outcomes if isinstance(one, Exception)]
            assert all(isinstance(one, NoPendingToolCalls | NoActiveRuns) for one in told), told
            decided = [one.run for one in outcomes if isinstance(one, Responded)]
            assert cancels or (len(decided), len(told)) == (1, 1)
            for run in decided:
                await here.ended(run)
            assert used.count(1) <= isinstance(outcomes[0], Responded)
            await checked(here, conversation.id)
            consistent(await shown(here, conversation.id))
    await elsewhere.close()
