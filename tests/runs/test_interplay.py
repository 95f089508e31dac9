"""Calls that wait, and everything else that can happen to a conversation meanwhile: interrupts, cancels, forks, retries."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError

from db.engine import Database
from llm.model import Failed, ModelRequest, ToolCallTurn, ToolReturnTurn, UserTurn
from runs.commands.approvals import Approve, Decision, Deny
from runs.commands.cancel import Cancelled, NoActiveRuns, RunNotFound, cancel_conversation, cancel_run
from runs.commands.compact import CompactRequest, compact
from runs.commands.deletion import delete_conversation
from runs.commands.fork import NewFork, fork_conversation
from runs.commands.respond import Answer, NoPendingToolCalls, Respond, Responded, expire, respond
from runs.heads import ConversationNotFound
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.jobs import Jobs
from runs.workers.worker import WorkerLimits
from tests.rig import TENANT, Rig, collect, rig, utc_now
from tests.runs.consistency import Shown, consistent, shown
from tests.runs.doubt import Forgetful
from tests.runs.logs import checked, only, running, said, statuses, steps, taken_out, until
from tests.runs.scripted import USAGE, Cue, Models, Scripted, call, finished, text
from vocabulary.conversations import Conversation, ConversationStatus
from vocabulary.events import ConversationChanged, DeltaMode, MessageCompleted, ResetReason, StreamReset, ToolCallChanged
from vocabulary.messages import MessageType, SummaryBody, ToolCallBody, ToolCallState, ToolReturnBody
from vocabulary.runs import BusyPolicy, CancelOutcome, Run, RunError, RunErrorType, RunStatus, StopReason, Usage

SOLE = WorkerLimits(sole=True, reconcile_s=0.05)


@dataclass(slots=True)
class Bench:
    """`saw` needs an approval and takes until its gate is opened, `level` does neither."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    used: list[str] = field(default_factory=list[str])

    def tools(self) -> list[ServerTool]:
        return [self._tool("saw", requires_approval=True), self._tool("level", requires_approval=False)]

    def _tool(self, name: str, *, requires_approval: bool) -> ServerTool:
        async def run(_arguments: Arguments, _context: ToolContext) -> str:
            self.used.append(name)
            if requires_approval:
                self.begun.set()
                await self.gate.wait()
            return f"{name} used"

        return ServerTool(name=name, description="", parameters={"type": "object"}, run=run, requires_approval=requires_approval)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def _calls(*names: str) -> list[Cue]:
    return [cue for place, name in enumerate(names) for cue in call(name, "{}", index=place)] + finished()


@asynccontextmanager
async def told(database: Database, model: Scripted, bench: Bench) -> AsyncGenerator[Rig]:
    """Whoever works hears of runs through the dispatcher that goes with the database, and in no other way."""
    limits = WorkerLimits(sole=database.is_sqlite, reconcile_s=600)
    async with rig(database, models=Models(model), tools=bench.tools(), worker_limits=limits, works=database.is_sqlite) as parley:
        if database.is_sqlite:
            yield parley
            return
        working = asyncio.create_task(parley.worker.run(), name="worker")
        taking = asyncio.create_task(Jobs(database, parley.worker, concurrency=20).run(), name="jobs")
        try:
            await parley.worker.ready.wait()
            yield parley
        finally:
            taking.cancel()
            working.cancel()
            await asyncio.gather(taking, working, return_exceptions=True)


@asynccontextmanager
async def asked(
    database: Database, bench: Bench, *scripts: list[Cue], queued: int = 0, names: tuple[str, ...] = ("saw",)
) -> AsyncGenerator[tuple[Rig, Conversation, Scripted, list[Run]]]:
    """A conversation that waits; its runs: the one that asked, then those in line."""
    gate = asyncio.Event()
    model = Scripted([gate, *_calls(*names)], *scripts)
    async with told(database, model, bench) as parley:
        made = await parley.conversation(model="test/scripted", tools=["saw", "level"])
        sent = [(await parley.say(made.id, "Go" if place == 0 else f"Queued {place}")).run for place in range(queued + 1)]
        gate.set()
        await parley.ended(sent[0])
        conversation = await parley.read(made.id)
        assert conversation.status is ConversationStatus.AWAITING_INPUT
        consistent(await shown(parley, made.id))
        yield parley, conversation, model, sent


async def decided(parley: Rig, conversation: Conversation, *decisions: Decision) -> Responded:
    waiting = (await shown(parley, conversation.id)).waiting
    answers = tuple(Answer(tool_call_id=call.id, decision=decision) for call, decision in zip(waiting, decisions, strict=True))
    return await respond(parley.engine, TENANT, Respond(conversation_id=conversation.id, answers=answers))


async def returned(parley: Rig, conversation: Conversation) -> list[tuple[str, str]]:
    body = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
    assert isinstance(body, ToolReturnBody)
    return [(item.name, item.output) for item in body.tool_returns]


async def holds(parley: Rig, conversation: Conversation) -> Shown:
    """At rest."""
    await checked(parley, conversation.id)
    seen = await shown(parley, conversation.id)
    consistent(seen)
    return seen


def shows_returns(request: ModelRequest) -> bool:
    return any(isinstance(turn, ToolReturnTurn) for turn in request.history)


# ---- while calls wait


async def test_an_interrupting_send_denies_what_waits_and_goes_before_the_queue(database: Database, bench: Bench) -> None:
    async with asked(database, bench, queued=2) as (parley, conversation, model, sent):
        urgent = await parley.say(conversation.id, "Stop!", when_busy=BusyPolicy.INTERRUPT)
        for run in (urgent.run, *sent[1:]):
            assert (await parley.ended(run)).status is RunStatus.COMPLETED
        seen = await holds(parley, conversation)
        begun = [event.run_id for event in seen.events if running(event.payload)]
        assert list(dict.fromkeys(begun)) == [sent[0].id, urgent.run.id, sent[1].id, sent[2].id]
        assert [call.state for call in seen.calls] == [ToolCallState.DENIED]
        assert await returned(parley, conversation) == [("saw", "The call was denied: Something else was said instead of an answer.")]
        assert bench.used == []
        assert all(shows_returns(request) for request in model.requests[1:])


async def test_a_conversation_where_only_calls_wait_is_cancelled_and_says_so(database: Database, bench: Bench) -> None:
    async with asked(database, bench) as (parley, conversation, model, _):
        following = asyncio.create_task(
            collect(
                parley.reader.follow(conversation.id, after=conversation.head_sequence, mode=DeltaMode.ALL),
                lambda item: isinstance(item.payload, ConversationChanged),
            )
        )
        assert await cancel_conversation(parley.engine, TENANT, conversation.id) == []
        told = (await following)[-1].payload
        assert isinstance(told, ConversationChanged)
        assert told.conversation.status is ConversationStatus.IDLE
        with pytest.raises(NoActiveRuns):
            await cancel_conversation(parley.engine, TENANT, conversation.id)
        with pytest.raises(NoPendingToolCalls):
            await decided(parley, conversation)
        seen = await holds(parley, conversation)
        assert [call.state for call in seen.calls] == [ToolCallState.DENIED]
        await parley.ended((await parley.say(conversation.id, "Never mind")).run)
        assert shows_returns(model.requests[1])
        assert bench.used == []


async def test_a_conversation_where_calls_wait_is_cancelled_with_its_queue(database: Database, bench: Bench) -> None:
    async with asked(database, bench, queued=2) as (parley, conversation, _, sent):
        cancelled = await cancel_conversation(parley.engine, TENANT, conversation.id)
        assert [(one.run.id, one.outcome) for one in cancelled] == [(run.id, CancelOutcome.CANCELLED) for run in sent[1:]]
        seen = await holds(parley, conversation)
        assert (seen.conversation.status, seen.waiting, bench.used) == (ConversationStatus.IDLE, [], [])
        assert [message.text for message in taken_out(seen.events)] == ["Queued 1", "Queued 2"]
        assert isinstance(seen.events[-1].payload, ConversationChanged)


REFUSAL = {
    True: "CREATE TRIGGER refuse BEFORE UPDATE ON conversations WHEN new.pending_message_id IS NULL BEGIN SELECT RAISE(ABORT, 'no'); END",
    False: "ALTER TABLE conversations ADD CONSTRAINT refuse CHECK (pending_message_id IS NOT NULL) NOT VALID",
}


async def test_calls_that_cannot_be_denied_are_not_said_to_be(database: Database, bench: Bench) -> None:
    async with asked(database, bench) as (parley, conversation, _, _):
        async with database.write() as connection:
            await connection.execute(sql(REFUSAL[database.is_sqlite]))
        with pytest.raises(IntegrityError):
            await cancel_conversation(parley.engine, TENANT, conversation.id)
        assert (await parley.read(conversation.id)).status is ConversationStatus.AWAITING_INPUT


async def test_what_waits_in_line_behind_calls_can_be_cancelled_alone(database: Database, bench: Bench) -> None:
    async with asked(database, bench, queued=2) as (parley, conversation, _, sent):
        assert (await cancel_run(parley.engine, TENANT, sent[1].id)).outcome is CancelOutcome.CANCELLED
        assert (await parley.read(conversation.id)).status is ConversationStatus.AWAITING_INPUT
        bench.gate.set()
        done = await decided(parley, conversation, Approve())
        assert [(await parley.ended(run)).status for run in (done.run, sent[2])] == [RunStatus.COMPLETED] * 2
        await holds(parley, conversation)


# ---- cancelling the run that asked


async def test_a_run_that_asked_is_over_but_to_cancel_it_denies_its_calls(database: Database, bench: Bench) -> None:
    async with asked(database, bench, names=("level", "saw", "saw")) as (parley, conversation, model, [run]):
        before = await parley.ended(run)
        cancelled = await cancel_run(parley.engine, TENANT, run.id)
        assert (cancelled.run, cancelled.outcome) == (before, CancelOutcome.CANCELLED)
        denied = "The call was denied: The run was cancelled."
        assert await returned(parley, conversation) == [("level", "level used"), ("saw", denied), ("saw", denied)]
        seen = await holds(parley, conversation)
        assert (seen.conversation.status, seen.waiting) == (ConversationStatus.IDLE, [])
        assert statuses(seen.events, run.id)[-1] is RunStatus.COMPLETED
        told = [event.payload for event in seen.events[conversation.head_sequence :]]
        assert [type(payload) for payload in told] == [
            ToolCallChanged,
            ToolCallChanged,
            MessageCompleted,
            MessageCompleted,
            ConversationChanged,
        ]
        assert (await cancel_run(parley.engine, TENANT, run.id)).outcome is CancelOutcome.ALREADY_ENDED
        with pytest.raises(NoPendingToolCalls):
            await decided(parley, conversation)
        assert await parley.stored(conversation.id) == seen.events
        await parley.ended((await parley.say(conversation.id, "Never mind")).run)
        assert [type(turn) for turn in model.requests[1].history] == [UserTurn, ToolCallTurn, ToolReturnTurn, UserTurn]
        assert bench.used == ["level"]


async def test_behind_a_run_that_asked_and_was_cancelled_the_queue_goes_on(database: Database, bench: Bench) -> None:
    async with asked(database, bench, queued=2) as (parley, conversation, model, sent):
        assert (await cancel_run(parley.engine, TENANT, sent[0].id)).outcome is CancelOutcome.CANCELLED
        assert [(await parley.ended(run)).status for run in sent[1:]] == [RunStatus.COMPLETED] * 2
        seen = await holds(parley, conversation)
        begun = [event.run_id for event in seen.events if running(event.payload)]
        assert list(dict.fromkeys(begun)) == [run.id for run in sent]
        assert all(shows_returns(request) for request in model.requests[1:])


async def test_only_the_run_that_asked_can_be_cancelled_for_its_calls(database: Database, bench: Bench) -> None:
    async with asked(database, bench, _calls("saw")) as (parley, conversation, _, [first]):
        bench.gate.set()
        second = (await decided(parley, conversation, Approve())).run
        assert (await parley.ended(second)).stop_reason is StopReason.REQUIRES_APPROVAL
        before = await holds_while_it_waits(parley, conversation)
        assert (await cancel_run(parley.engine, TENANT, first.id)).outcome is CancelOutcome.ALREADY_ENDED
        assert await holds_while_it_waits(parley, conversation) == before
        with pytest.raises(RunNotFound):
            await cancel_run(parley.engine, "elsewhere", second.id)
        assert (await cancel_run(parley.engine, TENANT, second.id)).outcome is CancelOutcome.CANCELLED
        assert (await holds(parley, conversation)).conversation.status is ConversationStatus.IDLE
        assert bench.used == ["saw"]


async def holds_while_it_waits(parley: Rig, conversation: Conversation) -> Shown:
    seen = await shown(parley, conversation.id)
    consistent(seen)
    assert seen.waiting
    return seen


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_of_several_who_cancel_and_answer_at_once_one_is_heard(database: Database, bench: Bench, place: int) -> None:
    async with asked(database, bench, queued=1) as (parley, conversation, _, [run, queued]):
        bench.gate.set()
        answers = tuple(Answer(tool_call_id=call.id, decision=Approve()) for call in (await shown(parley, conversation.id)).waiting)
        acts: list[Awaitable[Cancelled | Responded]] = [cancel_run(parley.engine, TENANT, run.id) for _ in range(2)]
        acts.insert(place, respond(parley.engine, TENANT, Respond(conversation_id=conversation.id, answers=answers)))
        told = await asyncio.gather(*acts, return_exceptions=True)
        answer, outcomes = told.pop(place), [one.outcome for one in told if isinstance(one, Cancelled)]
        if isinstance(answer, Responded):
            assert outcomes == [CancelOutcome.ALREADY_ENDED] * 2
        else:
            assert isinstance(answer, NoPendingToolCalls)
            assert sorted(outcomes) == [CancelOutcome.ALREADY_ENDED, CancelOutcome.CANCELLED]
        assert (await parley.ended(queued)).status is RunStatus.COMPLETED
        await holds(parley, conversation)
        assert len(bench.used) == isinstance(answer, Responded)


async def test_a_run_whose_calls_cannot_be_denied_is_not_said_to_be_cancelled(database: Database, bench: Bench) -> None:
    async with asked(database, bench) as (parley, conversation, _, [run]):
        async with database.write() as connection:
            await connection.execute(sql(REFUSAL[database.is_sqlite]))
        before = await holds_while_it_waits(parley, conversation)
        assert (await cancel_run(parley.engine, TENANT, run.id)).outcome is CancelOutcome.FAILED
        assert await holds_while_it_waits(parley, conversation) == before


async def test_calls_are_denied_in_the_middle_of_a_compaction_which_keeps_them(database: Database, bench: Bench) -> None:
    asked_for_it, gate = asyncio.Event(), asyncio.Event()
    summary = [asked_for_it.set, gate, *text("They talked."), *finished()]
    model = Scripted([*text("Well, well. " * 200), *finished()], _calls("saw"), summary)
    async with told(database, model, bench) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["saw"])
        await parley.ended((await parley.say(conversation.id, "Hi")).run)
        asking = await parley.ended((await parley.say(conversation.id, "Go")).run)
        compacting = (await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))).run
        await asyncio.wait_for(asked_for_it.wait(), 20)
        assert (await cancel_run(parley.engine, TENANT, asking.id)).outcome is CancelOutcome.CANCELLED
        assert (await parley.read(conversation.id)).status is ConversationStatus.RUNNING
        gate.set()
        assert (await parley.ended(compacting)).status is RunStatus.COMPLETED
        seen = await holds(parley, conversation)
        assert seen.conversation.status is ConversationStatus.IDLE
        summarised = only(seen.history, MessageType.SUMMARY).body
        assert isinstance(summarised, SummaryBody)
        assert summarised.stats is not None
        assert summarised.stats.messages_after == sum(message.in_context for message in seen.history)
        await parley.ended((await parley.say(conversation.id, "Never mind")).run)
        assert [type(turn) for turn in model.requests[-1].history[-3:]] == [ToolCallTurn, ToolReturnTurn, UserTurn]


# ---- deleting and forking


async def test_a_conversation_that_is_deleted_while_calls_wait_waits_for_nobody(database: Database, bench: Bench) -> None:
    async with asked(database, bench, queued=1) as (parley, conversation, _, sent):
        [waiting] = (await shown(parley, conversation.id)).waiting
        await delete_conversation(parley.engine, TENANT, conversation.id)
        before = await parley.stored(conversation.id)
        answers = (Answer(tool_call_id=waiting.id, decision=Approve()),)
        with pytest.raises(ConversationNotFound):
            await respond(parley.engine, TENANT, Respond(conversation_id=conversation.id, answers=answers))
        await expire(parley.engine, conversation.id, before=utc_now())
        assert (await parley.ended(sent[1])).status is RunStatus.CANCELLED
        assert await parley.stored(conversation.id) == before
        assert before[-1].payload == StreamReset(ResetReason.CONVERSATION_DELETED, before[-1].sequence)
        assert bench.used == []


async def test_a_fork_knows_what_has_returned_and_that_the_rest_was_not_answered(database: Database, bench: Bench) -> None:
    names = ("level", "saw", "saw")
    async with asked(database, bench, names=names) as (parley, conversation, model, _):
        fork = await fork_conversation(parley.engine, TENANT, NewFork(conversation_id=conversation.id))
        unanswered = "The conversation was forked before this call was answered."
        assert await returned(parley, fork) == [("level", "level used"), ("saw", unanswered), ("saw", unanswered)]
        calls = only(await parley.history(fork.id), MessageType.TOOL_CALL).body
        assert isinstance(calls, ToolCallBody)
        assert [(one.state, one.returned) for one in calls.tool_calls] == [
            (ToolCallState.COMPLETED, None),
            (ToolCallState.INTERRUPTED, None),
            (ToolCallState.INTERRUPTED, None),
        ]
        assert fork.status is ConversationStatus.IDLE
        await parley.ended((await parley.say(fork.id, "Go on")).run)
        assert shows_returns(model.requests[-1])
        bench.gate.set()  # the one it was forked from waits as before
        await parley.ended((await decided(parley, conversation, Approve(), Deny())).run)
        assert bench.used == ["level", "saw"]
        await holds(parley, conversation)


# ---- the run that goes on

Stop = Callable[[Rig, Run], Awaitable[object]]


async def _cancel(parley: Rig, run: Run) -> None:
    assert (await cancel_run(parley.engine, TENANT, run.id)).outcome is CancelOutcome.CANCELLED


async def _cancel_all(parley: Rig, run: Run) -> None:
    assert [one.run.id for one in await cancel_conversation(parley.engine, TENANT, run.conversation_id)] == [run.id]


async def _interrupt(parley: Rig, run: Run) -> None:
    await parley.ended((await parley.say(run.conversation_id, "Stop!", when_busy=BusyPolicy.INTERRUPT)).run)


every_stop = pytest.mark.parametrize("stop", [_cancel, _cancel_all, _interrupt])


@every_stop
async def test_stopped_before_it_could_go_on_it_leaves_nothing_without_a_return(database: Database, bench: Bench, stop: Stop) -> None:
    async with asked(database, bench, names=("saw", "level", "saw")) as (parley, conversation, model, _):
        forgetful = replace(parley, engine=replace(parley.engine, dispatcher=Forgetful()))
        done = await decided(forgetful, conversation, Approve(), Deny("no"))
        consistent(await shown(parley, conversation.id))
        await stop(parley, done.run)
        run = await parley.ended(done.run)
        assert (run.status, run.usage, run.started_at) == (RunStatus.CANCELLED, Usage(), None)
        assert await returned(parley, conversation) == [
            ("saw", "The tool was not run."), ("level", "level used"), ("saw", "The call was denied: no"),
        ]  # fmt: skip
        await parley.ended((await parley.say(conversation.id, "And now?")).run)
        assert all(shows_returns(request) for request in model.requests[1:])
        assert bench.used == ["level"]
        await holds(parley, conversation)


@every_stop
async def test_stopped_in_the_tool_that_was_approved_it_tells_that_nobody_knows(database: Database, bench: Bench, stop: Stop) -> None:
    async with asked(database, bench, names=("saw", "saw")) as (parley, conversation, model, _):
        done = await decided(parley, conversation, Approve(), Deny("no"))
        await asyncio.wait_for(bench.begun.wait(), 20)
        await stop(parley, done.run)
        run = await parley.ended(done.run)
        assert (run.status, run.usage) == (RunStatus.CANCELLED, Usage())
        outcome = "The tool was started, but its outcome is unknown."
        assert await returned(parley, conversation) == [("saw", outcome), ("saw", "The call was denied: no")]
        await parley.ended((await parley.say(conversation.id, "And now?")).run)
        assert all(shows_returns(request) for request in model.requests[1:])
        assert bench.used == ["saw"]
        await holds(parley, conversation)


@pytest.mark.parametrize("in_tool", [False, True])
async def test_handed_over_it_goes_on_where_it_was(database: Database, bench: Bench, *, in_tool: bool) -> None:
    if not in_tool:
        bench.gate.set()
    model_says = [*text("So", " be it")[:-1], asyncio.Event()]
    async with asked(database, bench, model_says) as (parley, conversation, _, _):
        done = await decided(parley, conversation, Approve())
        await (asyncio.wait_for(bench.begun.wait(), 20) if in_tool else until(parley, conversation.id, said("be it")))
    async with rig(database, models=Models(model := Scripted()), tools=bench.tools(), worker_limits=SOLE) as second:
        run = await second.ended(done.run)
        assert (run.status, run.attempt, bench.used) == (RunStatus.COMPLETED, 1, ["saw"])
        [(_, output)] = await returned(second, conversation)
        assert output == ("The tool was started, but its outcome is unknown." if in_tool else "saw used")
        assert [shows_returns(request) for request in model.requests] == [True]
        await holds(second, conversation)


# ---- retries and what they cost


def _busy() -> Failed:
    return Failed(RunError(RunErrorType.LLM_OVERLOADED, "Busy."), USAGE, transient=True)


async def test_steps_add_up_through_retries_an_approval_and_what_follows(database: Database, bench: Bench) -> None:
    bench.gate.set()
    model = Scripted([_busy()], _calls("saw"), [_busy()], [_busy()], [*text("Done."), *finished()])
    async with rig(database, models=Models(model), tools=bench.tools()) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["saw"])
        asking = await parley.ended((await parley.say(conversation.id, "Go")).run)
        going_on = await parley.ended((await decided(parley, conversation, Approve())).run)
        assert (asking.stop_reason, asking.usage) == (StopReason.REQUIRES_APPROVAL, USAGE + USAGE)
        assert going_on.usage == USAGE + USAGE + USAGE
        assert [step.usage for run in (asking, going_on) for step in await steps(parley, run.id)] == [asking.usage, going_on.usage]
        seen = await holds(parley, conversation)
        told = [message.run_id for message in seen.history if message.type is MessageType.EVENT]
        assert told == [asking.id, going_on.id, going_on.id]


@every_stop
async def test_a_run_that_waits_for_its_next_try_ends_at_once(database: Database, bench: Bench, stop: Stop) -> None:
    stopped = asyncio.Event()

    async def pause(_: float) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    model = Scripted([_busy()])
    async with rig(database, models=Models(model), tools=bench.tools(), pause=pause) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, lambda p: isinstance(p, MessageCompleted) and p.message.type is MessageType.EVENT)
        async with asyncio.timeout(20):
            await stop(parley, sent.run)
            await stopped.wait()
        run = await parley.ended(sent.run)
        assert (run.status, run.usage.requests, run.usage.estimated) == (RunStatus.CANCELLED, 1, True)
        await holds(parley, conversation)
