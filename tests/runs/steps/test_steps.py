"""Which steps count and what they took, when a run is failed, handed over, or cannot even begin."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from db.engine import Connection, Database
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from tests.rig import Rig, rig
from tests.runs.logs import checked, said, steps, until
from tests.runs.scripted import USAGE, Cue, Models, Scripted, call, failed, finished, text
from vocabulary.events import Payload, ToolCallChanged
from vocabulary.messages import ToolCallState
from vocabulary.runs import Run, RunErrorType, RunStatus, StopReason, Usage

CALLS = [*call("slow", "{}"), *finished()]
ANSWERS = [*text("Done."), *finished()]
LIMITS = WorkerLimits(sole=False, reconcile_s=0.05, hand_over_s=10)


def _slow(gate: asyncio.Event) -> ServerTool:
    async def run(_arguments: Arguments, _context: ToolContext) -> str:
        await gate.wait()
        return "done"

    return ServerTool(name="slow", description="Takes its time.", parameters={"type": "object"}, run=run)


def _tool_runs(payload: Payload | None) -> bool:
    return isinstance(payload, ToolCallChanged) and payload.tool_call.state is ToolCallState.RUNNING


async def _handed_over(database: Database, script: Sequence[Cue], *, tool: bool, max_steps: int) -> Run:
    """A run that its worker has let go of in its first step."""
    async with rig(database, models=Models(Scripted(script)), tools=[_slow(asyncio.Event())], worker_limits=LIMITS) as first:
        conversation = await first.conversation(model="test/scripted", tools=["slow"])
        run = (await first.say(conversation.id, "Hi", max_steps=max_steps)).run
        await until(first, conversation.id, _tool_runs if tool else said("Half"))
    return run


@asynccontextmanager
async def _second(database: Database, model: Scripted) -> AsyncGenerator[Rig]:
    opened = asyncio.Event()
    opened.set()
    async with rig(database, models=Models(model), tools=[_slow(opened)], worker_limits=LIMITS) as second:
        yield second


async def test_a_step_that_was_abandoned_does_not_count_against_the_limit_but_is_paid_for(database: Database) -> None:
    run = await _handed_over(database, [*text("Half")[:-1], asyncio.Event()], tool=False, max_steps=2)
    async with _second(database, Scripted(CALLS, ANSWERS)) as second:
        ended = await second.ended(run)
        cut = Usage(input_tokens=3, output_tokens=1, requests=1, estimated=True)
        assert (ended.status, ended.stop_reason, ended.usage) == (RunStatus.COMPLETED, StopReason.END_TURN, cut + USAGE + USAGE)
        told = [(step.index, step.usage, step.stop_reason, step.completed_at is None) for step in await steps(second, run.id)]
        assert told == [(0, cut, None, True), (1, USAGE, StopReason.END_TURN, False), (2, USAGE, StopReason.END_TURN, False)]
        await checked(second, run.conversation_id)


async def test_a_step_whose_calls_were_made_counts_and_is_paid_for_though_its_tools_never_ended(database: Database) -> None:
    run = await _handed_over(database, CALLS, tool=True, max_steps=2)
    async with _second(database, Scripted(ANSWERS)) as second:
        ended = await second.ended(run)
        assert (ended.stop_reason, ended.usage) == (StopReason.END_TURN, USAGE + USAGE)
        told = [(step.index, step.usage, step.stop_reason, step.completed_at is None) for step in await steps(second, run.id)]
        assert told == [(0, USAGE, StopReason.END_TURN, False), (1, USAGE, StopReason.END_TURN, False)]
        await checked(second, run.conversation_id)


async def test_a_run_that_had_taken_all_its_steps_is_not_given_another_by_a_takeover(database: Database) -> None:
    run = await _handed_over(database, CALLS, tool=True, max_steps=1)
    async with _second(database, model := Scripted()) as second:
        ended = await second.ended(run)
        assert (ended.status, ended.stop_reason, ended.usage) == (RunStatus.COMPLETED, StopReason.MAX_STEPS, USAGE)
        assert model.requests == []
        await checked(second, run.conversation_id)
        assert (await second.ended((await second.say(run.conversation_id, "Go on")).run)).stop_reason is StopReason.END_TURN


@pytest.mark.parametrize("calls_first", [False, True])
async def test_steps_add_up_to_a_run_that_failed(database: Database, calls_first: bool) -> None:
    scripts = [CALLS, failed()] if calls_first else [failed()]
    async with _second(database, Scripted(*scripts)) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["slow"])
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        taken = await steps(parley, run.id)
        assert [step.usage for step in taken] == [USAGE] * len(scripts)
        assert sum((step.usage for step in taken), Usage()) == run.usage
        assert (taken[-1].stop_reason, taken[-1].completed_at) == (StopReason.LLM_ERROR, None)
        await checked(parley, conversation.id)


# ---- runs that cannot begin


class Unreadable(Database):
    """Whoever is about to begin a run cannot read what he needs."""

    failure: Exception
    failures: int = 0

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection]:
        if self.failures and (task := asyncio.current_task()) and task.get_name().startswith("advance"):
            self.failures -= 1
            raise self.failure
        async with super().read() as connection:
            yield connection


@pytest.fixture
async def unreadable(database_url: str) -> AsyncGenerator[Unreadable]:
    opened = Unreadable.open(database_url)
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("failure", "failures", "status", "attempts"),
    [
        (OSError("no route"), 2, RunStatus.COMPLETED, 3),
        (OSError("no route"), 3, RunStatus.FAILED, 3),
        (RuntimeError("bug"), 1, RunStatus.FAILED, 1),
    ],
    ids=["twice", "again and again", "by a bug"],
)
async def test_a_run_that_cannot_begin_is_handed_on_and_given_up_in_the_end(
    unreadable: Unreadable, failure: Exception, failures: int, status: RunStatus, attempts: int
) -> None:
    async with _second(unreadable, Scripted()) as parley:
        conversation = await parley.conversation(model="test/scripted")
        unreadable.failure, unreadable.failures = failure, failures
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert (run.status, run.attempt, unreadable.failures) == (status, attempts, 0)
        assert run.error is None or run.error.type is RunErrorType.INTERNAL
        await checked(parley, conversation.id)
        assert (await parley.ended((await parley.say(conversation.id, "And now?")).run)).status is RunStatus.COMPLETED
