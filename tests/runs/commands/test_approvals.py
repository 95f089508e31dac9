"""Calls that wait for somebody: what a run leaves behind when it stops for them, how they are answered, and that it is done once."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from db import conversations
from db.engine import Database
from llm.model import ModelRequest, ToolCallTurn, ToolReturnTurn
from llm.registry import ModelNotFound
from runs.close import Ending, close_run
from runs.commands.agents import AgentChange, NewAgent, create_agent, update_agent
from runs.commands.approvals import Approve, Decision, Deny, PendingApproval, Result, deny_pending
from runs.commands.cancel import cancel_conversation, cancel_run
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.idempotency import IdempotencyConflict
from runs.commands.respond import Answer, NoPendingToolCalls, Respond, Responded, ToolCallMismatch, WrongDecision, expire, respond
from runs.heads import ConversationNotFound, announce_conversation
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from tests.rig import TENANT, Rig, rig, utc_now
from tests.runs.doubt import Forgetful, Mortal
from tests.runs.logs import checked, only, rows, steps, until
from tests.runs.scripted import Cue, Models, Scripted, call, finished, text
from vocabulary.compaction import CompactionMode
from vocabulary.conversations import AgentTool, Conversation, ConversationStatus
from vocabulary.events import Payload, RunChanged
from vocabulary.messages import (
    ApprovalResponseBody,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturnBody,
    ToolReturnStatus,
    ToolSource,
)
from vocabulary.runs import BusyPolicy, CancelOutcome, ClientTool, Run, RunKind, RunStatus, StopReason

ANYTHING = {"type": "object"}
SOLE = WorkerLimits(sole=True, reconcile_s=0.05)


class Bench:
    """Tools that note when they were run: `saw` needs an approval, `level` does not."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def tools(self) -> list[ServerTool]:
        return [self._tool("saw", requires_approval=True), self._tool("level", requires_approval=False)]

    def _tool(self, name: str, *, requires_approval: bool) -> ServerTool:
        async def run(_arguments: Arguments, _context: ToolContext) -> str:
            self.used.append(name)
            return f"{name} used"

        return ServerTool(name=name, description="", parameters=ANYTHING, run=run, requires_approval=requires_approval)


CAMERA = ClientTool(name="camera", description="Takes a picture.", parameters=ANYTHING)


def _calls(*names: str) -> list[Cue]:
    return [cue for place, name in enumerate(names) for cue in call(name, "{}", index=place)] + finished()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def model() -> Scripted:
    return Scripted(_calls("saw"))


@pytest.fixture
async def parley(database: Database, bench: Bench, model: Scripted) -> AsyncGenerator[Rig]:
    async with rig(database, models=Models(model), tools=bench.tools()) as running:
        yield running


async def _asked(parley: Rig, **more: object) -> Conversation:
    """A conversation that waits."""
    conversation = await parley.conversation(model="test/scripted", tools=["saw", "level"])
    run = await parley.ended((await parley.say(conversation.id, "Go", **more)).run)
    assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, StopReason.REQUIRES_APPROVAL)
    return await parley.read(conversation.id)


async def _waiting(parley: Rig, conversation: Conversation) -> list[ToolCall]:
    request = only(await parley.history(conversation.id), MessageType.APPROVAL_REQUEST)
    assert isinstance(request.body, ToolCallBody)
    return list(request.body.tool_calls)


async def _respond(parley: Rig, conversation: Conversation, *decisions: Decision, key: str | None = None, body: str = "") -> Responded:
    """In the order of the calls."""
    calls = await _waiting(parley, conversation)
    answers = tuple(Answer(tool_call_id=call.id, decision=decision) for call, decision in zip(calls, decisions, strict=True))
    request = Respond(conversation_id=conversation.id, answers=answers, idempotency_key=key, body_hash=body)
    return await respond(parley.engine, TENANT, request)


async def _returned(parley: Rig, conversation: Conversation) -> list[tuple[str, ToolReturnStatus, str]]:
    body = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
    assert isinstance(body, ToolReturnBody)
    return [(item.name, item.status, item.output) for item in body.tool_returns]


def _is_paired(asked: ModelRequest) -> bool:
    for turn, following in zip(asked.history, [*asked.history[1:], None], strict=True):
        if isinstance(turn, ToolCallTurn):
            returned = following.returns if isinstance(following, ToolReturnTurn) else ()
            if [item.call_id for item in turn.calls] != [item.call_id for item in returned]:
                return False
    return True


# ---- waiting


async def test_a_run_stops_for_an_approval_and_the_conversation_waits(parley: Rig, bench: Bench) -> None:
    conversation = await _asked(parley)
    assert conversation.status is ConversationStatus.AWAITING_INPUT
    [waiting] = await _waiting(parley, conversation)
    assert (waiting.name, waiting.state, waiting.source) == ("saw", ToolCallState.AWAITING_APPROVAL, ToolSource.BUILTIN)
    assert [message.type for message in await parley.history(conversation.id)][2:] == [MessageType.TOOL_CALL, MessageType.APPROVAL_REQUEST]
    assert bench.used == []


@pytest.mark.parametrize("policy", [BusyPolicy.ENQUEUE, BusyPolicy.REJECT])
async def test_a_conversation_that_waits_takes_no_message(parley: Rig, policy: BusyPolicy) -> None:
    conversation = await _asked(parley)
    before = await rows(parley.database)
    with pytest.raises(PendingApproval) as refused:
        await parley.say(conversation.id, "And now?", when_busy=policy)
    assert refused.value.tool_call_ids == tuple(call.id for call in await _waiting(parley, conversation))
    assert await rows(parley.database) == before


async def test_what_waits_in_line_starts_after_the_run_that_goes_on(database: Database, bench: Bench) -> None:
    gate = asyncio.Event()
    model = Scripted([gate, *_calls("saw")])
    async with rig(database, models=Models(model), tools=bench.tools()) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["saw"])
        first, second = await parley.say(conversation.id, "Go"), await parley.say(conversation.id, "And then?")
        gate.set()
        await parley.ended(first.run)
        waiting = await parley.read(conversation.id)
        parley.worker.advance_soon(conversation.id)
        assert waiting.status is ConversationStatus.AWAITING_INPUT
        done = await _respond(parley, waiting, Approve())
        assert (await parley.ended(second.run)).status is RunStatus.COMPLETED
        events = await checked(parley, conversation.id)
        started = [event.run_id for event in events if isinstance(event.payload, RunChanged) and event.payload.status is RunStatus.RUNNING]
        order = list(dict.fromkeys(started))
        assert order == [first.run.id, done.run.id, second.run.id]
        assert all(_is_paired(asked) for asked in model.requests)


# ---- answering


async def test_what_is_approved_is_run_by_a_run_that_goes_on(parley: Rig, bench: Bench, model: Scripted) -> None:
    conversation = await _asked(parley, override_system="Only this.")
    done = await _respond(parley, conversation, Approve("go ahead"))
    run = await parley.ended(done.run)
    assert (run.status, run.stop_reason, bench.used) == (RunStatus.COMPLETED, StopReason.END_TURN, ["saw"])
    assert await _returned(parley, conversation) == [("saw", ToolReturnStatus.SUCCESS, "saw used")]
    [response] = done.messages
    assert isinstance(response.body, ApprovalResponseBody)
    assert [(decision.approved, decision.reason) for decision in response.body.decisions] == [(True, "go ahead")]
    assert [asked.system for asked in model.requests] == ["Only this."] * 2
    assert isinstance(model.requests[1].history[-1], ToolReturnTurn)
    assert (await parley.read(conversation.id)).status is ConversationStatus.IDLE
    assert [call.state for call in await _waiting(parley, conversation)] == [ToolCallState.COMPLETED]
    await checked(parley, conversation.id)


async def test_what_is_denied_is_not_run_and_the_model_is_told_why(parley: Rig, bench: Bench, model: Scripted) -> None:
    conversation = await _asked(parley)
    await parley.ended((await _respond(parley, conversation, Deny("too loud"))).run)
    assert await _returned(parley, conversation) == [("saw", ToolReturnStatus.ERROR, "The call was denied: too loud")]
    assert [call.state for call in await _waiting(parley, conversation)] == [ToolCallState.DENIED]
    assert bench.used == []
    assert _is_paired(model.requests[1])
    await checked(parley, conversation.id)


@pytest.mark.parametrize(("requires_approval", "state"), [(False, ToolCallState.AWAITING_CLIENT), (True, ToolCallState.AWAITING_APPROVAL)])
@pytest.mark.parametrize(("status", "ended"), [(ToolReturnStatus.SUCCESS, "COMPLETED"), (ToolReturnStatus.ERROR, "FAILED")])
async def test_a_clients_tool_is_run_by_the_client(
    parley: Rig, bench: Bench, model: Scripted, *, requires_approval: bool, state: ToolCallState, status: ToolReturnStatus, ended: str
) -> None:
    """Also when the server has one of the same name."""
    mine = replace(CAMERA, name="saw", description="Mine.", requires_approval=requires_approval)
    conversation = await _asked(parley, client_tools=(mine,))
    assert [(call.state, call.source) for call in await _waiting(parley, conversation)] == [(state, ToolSource.CLIENT)]
    await parley.ended((await _respond(parley, conversation, Result("cut", status))).run)
    assert await _returned(parley, conversation) == [("saw", status, "cut")]
    assert [call.state for call in await _waiting(parley, conversation)] == [ended]
    assert [[tool.description for tool in asked.tools if tool.name == "saw"] for asked in model.requests] == [["Mine."]] * 2
    assert bench.used == []
    await checked(parley, conversation.id)


async def test_the_calls_of_a_step_return_together_in_their_order(database: Database, bench: Bench) -> None:
    model = Scripted([*_calls("camera", "level", "saw", "nobody", "saw")])
    async with rig(database, models=Models(model), tools=bench.tools()) as parley:
        conversation = await _asked(parley, client_tools=(CAMERA,))
        assert bench.used == ["level"]
        assert [call.name for call in await _waiting(parley, conversation)] == ["camera", "saw", "saw"]
        await parley.ended((await _respond(parley, conversation, Result("click"), Deny(), Approve())).run)
        assert await _returned(parley, conversation) == [
            ("camera", ToolReturnStatus.SUCCESS, "click"),
            ("level", ToolReturnStatus.SUCCESS, "level used"),
            ("saw", ToolReturnStatus.ERROR, "The call was denied."),
            ("nobody", ToolReturnStatus.ERROR, "There is no tool named 'nobody'."),
            ("saw", ToolReturnStatus.SUCCESS, "saw used"),
        ]
        assert bench.used == ["level", "saw"]
        assert _is_paired(model.requests[1])
        await checked(parley, conversation.id)


async def test_an_agent_may_be_given_a_tool_under_another_rule(database: Database, bench: Bench) -> None:
    async with rig(database, models=Models(Scripted(_calls("saw"))), tools=bench.tools()) as parley:
        given = (AgentTool(name="saw", requires_approval=False),)
        agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", model="test/scripted", tools=given))
        conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))
        assert (await parley.ended((await parley.say(conversation.id, "Go")).run)).stop_reason is StopReason.END_TURN
        assert bench.used == ["saw"]


async def test_the_steps_that_were_left_are_those_of_the_run_that_goes_on(database: Database, bench: Bench) -> None:
    model = Scripted(_calls("level"), _calls("saw"), _calls("level"), _calls("level"))
    async with rig(database, models=Models(model), tools=bench.tools()) as parley:
        conversation = await _asked(parley, max_steps=3)
        run = await parley.ended((await _respond(parley, conversation, Approve())).run)
        assert (run.stop_reason, run.request.max_steps, len(model.requests)) == (StopReason.MAX_STEPS, 1, 3)
        await checked(parley, conversation.id)


async def test_a_compaction_takes_no_step_from_the_run_that_goes_on(database: Database, bench: Bench) -> None:
    model = Scripted(_calls("level"), [*text("They began."), *finished()], _calls("saw"), _calls("level"))
    async with rig(database, models=Models(model), tools=bench.tools()) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["saw", "level"])
        always = {"mode": CompactionMode.ALL, "trigger_fraction": 1e-9}
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, compaction_settings=always))
        asking = await parley.ended((await parley.say(conversation.id, "Go on. " * 100, max_steps=3)).run)
        assert [step.kind for step in await steps(parley, asking.id)] == [RunKind.RESPONSE, RunKind.COMPACTION, RunKind.RESPONSE]
        run = await parley.ended((await _respond(parley, conversation, Approve())).run)
        assert [step.kind for step in await steps(parley, run.id)][:1] == [RunKind.RESPONSE]
        assert (run.stop_reason, run.request.max_steps, bench.used) == (StopReason.MAX_STEPS, 1, ["level", "saw", "level"])
        await checked(parley, conversation.id)


async def test_with_no_step_left_what_was_approved_is_still_run(parley: Rig, bench: Bench, model: Scripted) -> None:
    conversation = await _asked(parley, max_steps=1)
    run = await parley.ended((await _respond(parley, conversation, Approve())).run)
    assert (run.status, run.stop_reason, bench.used, len(model.requests)) == (RunStatus.COMPLETED, StopReason.MAX_STEPS, ["saw"], 1)
    await checked(parley, conversation.id)
    assert (await parley.ended((await parley.say(conversation.id, "Thanks")).run)).stop_reason is StopReason.END_TURN
    assert _is_paired(model.requests[1])


# ---- refusals


async def test_an_answer_to_nothing_is_refused(parley: Rig) -> None:
    conversation = await parley.conversation()
    request = Respond(conversation_id=conversation.id, answers=(Answer(tool_call_id="toolcall-1", decision=Approve()),))
    with pytest.raises(NoPendingToolCalls):
        await respond(parley.engine, TENANT, request)
    with pytest.raises(ConversationNotFound):
        await respond(parley.engine, "elsewhere", request)


async def test_answers_must_be_to_exactly_what_waits(database: Database, bench: Bench) -> None:
    async with rig(database, models=Models(Scripted(_calls("saw", "saw"))), tools=bench.tools()) as parley:
        conversation = await _asked(parley)
        first, second = [call.id for call in await _waiting(parley, conversation)]
        before = await rows(database)
        for given, missing, unknown in [([first], (second,), ()), ([first, second, "x"], (), ("x",)), (["x"], (first, second), ("x",))]:
            answers = tuple(Answer(tool_call_id=id_, decision=Approve()) for id_ in given)
            with pytest.raises(ToolCallMismatch) as refused:
                await respond(parley.engine, TENANT, Respond(conversation_id=conversation.id, answers=answers))
            assert (refused.value.missing, refused.value.unknown) == (missing, unknown)
        assert await rows(database) == before


async def test_who_runs_a_tool_decides_what_can_be_said_of_it(database: Database, bench: Bench) -> None:
    async with rig(database, models=Models(Scripted(_calls("saw", "camera"))), tools=bench.tools()) as parley:
        conversation = await _asked(parley, client_tools=(CAMERA,))
        before = await rows(database)
        for decisions, place, kind in [((Result("cut"), Result("click")), 0, "result"), ((Approve(), Approve()), 1, "approve")]:
            with pytest.raises(WrongDecision) as refused:
                await _respond(parley, conversation, *decisions)
            assert (refused.value.place, refused.value.decision) == (place, kind)
        assert await rows(database) == before


async def test_of_two_who_answer_at_once_one_is_told_that_nothing_waits(parley: Rig, bench: Bench) -> None:
    conversation = await _asked(parley)
    both = await asyncio.gather(_respond(parley, conversation, Approve()), _respond(parley, conversation, Deny()), return_exceptions=True)
    [done] = [one for one in both if isinstance(one, Responded)]
    assert [type(one) for one in both if not isinstance(one, Responded)] == [NoPendingToolCalls]
    await parley.ended(done.run)
    assert len(bench.used) == (both[0] is done)
    await checked(parley, conversation.id)


async def test_a_retry_is_answered_with_the_first_outcome(parley: Rig, bench: Bench) -> None:
    conversation = await _asked(parley)
    first = await _respond(parley, conversation, Approve(), key="k", body="a")
    await parley.ended(first.run)
    again = await _respond(parley, conversation, Approve(), key="k", body="a")
    assert (first.deduplicated, again.deduplicated, again.run.id) == (False, True, first.run.id)
    assert [message.id for message in again.messages] == [message.id for message in first.messages]
    assert again.applied_through_sequence == first.applied_through_sequence
    with pytest.raises(IdempotencyConflict):
        await _respond(parley, conversation, Deny(), key="k", body="b")
    assert bench.used == ["saw"]


# ---- without an answer


async def test_denied_from_elsewhere_the_calls_have_returned_and_anything_may_follow(parley: Rig, model: Scripted) -> None:
    conversation = await _asked(parley)
    async with parley.engine.log.transaction() as transaction:
        head = await transaction.lock(conversation.id)
        assert head is not None
        await deny_pending(transaction, head, conversation, "The conversation was cancelled.")
        await announce_conversation(transaction, head, head.take_sequence(), {"updated_at": transaction.now})
    assert (await parley.read(conversation.id)).status is ConversationStatus.IDLE
    assert await _returned(parley, conversation) == [
        ("saw", ToolReturnStatus.ERROR, "The call was denied: The conversation was cancelled.")
    ]
    await checked(parley, conversation.id)
    await parley.ended((await parley.say(conversation.id, "Never mind")).run)
    assert _is_paired(model.requests[1])


async def test_nobody_answers_for_ever(database: Database, bench: Bench) -> None:
    model = Scripted(_calls("saw"))
    limits = WorkerLimits(sole=database.is_sqlite, approval_expiry_s=0.01)
    async with rig(database, models=Models(model), tools=bench.tools(), worker_limits=limits) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["saw"])
        first = await parley.say(conversation.id, "Go")
        await parley.ended(first.run)
        told = await until(parley, conversation.id, lambda payload: _is_of_another(payload, first.run))
        assert isinstance(told[-1].payload, RunChanged)
        await parley.ended(told[-1].payload.run)
        assert await _returned(parley, conversation) == [("saw", ToolReturnStatus.ERROR, "The call was denied: Nobody answered in time.")]
        assert bench.used == []
        await checked(parley, conversation.id)


def _is_of_another(payload: Payload | None, run: Run) -> bool:
    return isinstance(payload, RunChanged) and payload.run.id != run.id


async def test_what_has_not_waited_long_enough_or_was_answered_does_not_expire(parley: Rig) -> None:
    conversation = await _asked(parley)
    async with parley.database.read() as connection:
        assert await conversations.waiting_since(connection, before=utc_now() - timedelta(hours=1), limit=9) == []
        assert await conversations.waiting_since(connection, before=utc_now(), limit=9) == [conversation.id]
    await parley.ended((await _respond(parley, conversation, Approve())).run)
    before = await rows(parley.database)
    await expire(parley.engine, conversation.id, before=utc_now())
    assert await rows(parley.database) == before


async def test_calls_expire_also_when_their_model_is_no_longer_there(database: Database, bench: Bench) -> None:
    async with rig(database, models=Models(Scripted(_calls("saw"))), tools=bench.tools()) as first:
        conversation = await _asked(first)
    async with rig(database, tools=bench.tools()) as second:
        with pytest.raises(ModelNotFound):
            await _respond(second, conversation, Approve())
        await expire(second.engine, conversation.id, before=utc_now())
        assert (await second.read(conversation.id)).status is ConversationStatus.IDLE
        assert [status for _, status, _ in await _returned(second, conversation)] == [ToolReturnStatus.ERROR]
        await checked(second, conversation.id)


async def test_a_run_that_is_closed_before_it_could_go_on_leaves_no_call_without_a_return(parley: Rig, bench: Bench) -> None:
    conversation = await _asked(parley)
    forgetful = replace(parley, engine=replace(parley.engine, dispatcher=Forgetful()))
    run = (await _respond(forgetful, conversation, Approve())).run
    async with parley.engine.log.transaction() as transaction:
        head = await transaction.lock(conversation.id)
        assert head is not None
        ending = Ending(status=RunStatus.CANCELLED, stop_reason=StopReason.CANCELLED)
        await close_run(parley.engine, transaction, head, run, ending)
    assert await _returned(parley, conversation) == [("saw", ToolReturnStatus.ERROR, "The tool was not run.")]
    assert bench.used == []
    await checked(parley, conversation.id)


# ---- restarts and crashes


async def test_what_waits_outlives_the_process(database: Database, bench: Bench) -> None:
    async with rig(database, models=Models(Scripted(_calls("saw"))), tools=bench.tools()) as first:
        conversation = await _asked(first)
    async with rig(database, models=Models(model := Scripted()), tools=bench.tools(), worker_limits=SOLE) as second:
        assert (await second.read(conversation.id)).status is ConversationStatus.AWAITING_INPUT
        run = await second.ended((await _respond(second, conversation, Approve())).run)
        assert (run.status, run.attempt, bench.used) == (RunStatus.COMPLETED, 1, ["saw"])
        assert _is_paired(model.requests[0])
        await checked(second, conversation.id)


@pytest.mark.parametrize("keeps_the_last", [False, True])
async def test_wherever_a_worker_dies_a_tool_that_was_approved_is_run_at_most_once(mortal: Mortal, *, keeps_the_last: bool) -> None:
    for commits in range(30):
        if await _survives(mortal, commits, keeps_the_last=keeps_the_last):
            assert commits >= 3  # the start, the mark of the call, the end
            return
    raise AssertionError("it never lived to the end")


async def _survives(mortal: Mortal, commits: int, *, keeps_the_last: bool) -> bool:
    """Whether the first worker saw the end before it was to die at this commit. What holds in any case is asserted."""
    bench, model = Bench(), Scripted()
    waiting = WorkerLimits(sole=True, reconcile_s=60)
    calls = _calls("saw", "level", "saw")
    async with rig(mortal, models=Models(Scripted(calls)), tools=bench.tools(), worker_limits=waiting) as first:
        conversation = await _asked(first)
        forgetful = replace(first, engine=replace(first.engine, dispatcher=Forgetful()))
        done = await _respond(forgetful, conversation, Approve(), Deny("no"))
        mortal.revive(commits=commits, keeps_the_last=keeps_the_last)
        first.worker.advance_soon(conversation.id)
        await _first_of(first.reader.wait_for_end(done.run, seconds=20), mortal.died.wait())
        survived = not mortal.dead
    mortal.revive()
    async with rig(mortal, models=Models(model), tools=bench.tools(), worker_limits=SOLE) as second:
        run = await second.ended(done.run)
        assert (run.status, run.attempt in (1, 2)) == (RunStatus.COMPLETED, True)
        assert bench.used.count("saw") <= 1
        returned = await _returned(second, conversation)
        assert [name for name, _, _ in returned] == ["saw", "level", "saw"]
        assert returned[0][1:] in [(ToolReturnStatus.SUCCESS, "saw used"), (ToolReturnStatus.ERROR, OUTCOME_UNKNOWN)]
        assert returned[1:] == [
            ("level", ToolReturnStatus.SUCCESS, "level used"),
            ("saw", ToolReturnStatus.ERROR, "The call was denied: no"),
        ]
        await checked(second, conversation.id)
        assert all(_is_paired(asked) for asked in model.requests)
    return survived


OUTCOME_UNKNOWN = "The tool was started, but its outcome is unknown."


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---- when the last message was written


async def _shows_its_last_message(parley: Rig, conversation: Conversation, *, before: datetime | None) -> None:
    [*_, last] = await parley.history(conversation.id)
    assert last.type is MessageType.TOOL_RETURN
    assert (await parley.read(conversation.id)).last_message_at == last.created_at > (before or last.created_at)


@pytest.mark.parametrize("queued", [False, True])
async def test_calls_that_are_cancelled_with_their_conversation_are_its_last_message(
    database: Database, bench: Bench, *, queued: bool
) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(Scripted([gate, *_calls("saw")])), tools=bench.tools()) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["saw"])
        sent = [await parley.say(conversation.id, words) for words in ("Go", "And then?")[: 1 + queued]]
        gate.set()
        await parley.ended(sent[0].run)
        before = (await parley.read(conversation.id)).last_message_at
        cancelled = await cancel_conversation(parley.engine, TENANT, conversation.id)
        assert [one.run.id for one in cancelled] == [one.run.id for one in sent[1:]]
        await _shows_its_last_message(parley, conversation, before=before)


async def test_calls_that_are_cancelled_with_the_run_that_asked_are_the_last_message(parley: Rig) -> None:
    conversation = await _asked(parley)
    run_id = only(await parley.history(conversation.id), MessageType.APPROVAL_REQUEST).run_id
    assert (await cancel_run(parley.engine, TENANT, run_id or "")).outcome is CancelOutcome.CANCELLED
    await _shows_its_last_message(parley, conversation, before=conversation.last_message_at)


async def test_calls_that_expire_without_their_model_are_the_last_message(database: Database, bench: Bench) -> None:
    async with rig(database, models=Models(Scripted(_calls("saw"))), tools=bench.tools()) as first:
        conversation = await _asked(first)
    async with rig(database, tools=bench.tools()) as second:
        await expire(second.engine, conversation.id, before=utc_now())
        await _shows_its_last_message(second, conversation, before=conversation.last_message_at)


async def test_calls_of_a_run_that_is_cancelled_before_it_could_go_on_are_the_last_message(parley: Rig) -> None:
    conversation = await _asked(parley)
    forgetful = replace(parley, engine=replace(parley.engine, dispatcher=Forgetful()))
    run = (await _respond(forgetful, conversation, Approve())).run
    before = (await parley.read(conversation.id)).last_message_at
    await cancel_run(forgetful.engine, TENANT, run.id)
    await _shows_its_last_message(parley, conversation, before=before)
