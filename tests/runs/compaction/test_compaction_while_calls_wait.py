"""Compactions while calls wait for an approval or for the client: the calls are neither lost nor answered, and whoever answers goes on."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from db.engine import Database
from llm.model import ModelRequest, ToolCallTurn, ToolReturnTurn
from runs.commands.agents import NewAgent, create_agent
from runs.commands.approvals import Approve, Decision, PendingApproval, Result
from runs.commands.cancel import cancel_conversation, cancel_run
from runs.commands.compact import CompactRequest, NothingToCompact, compact
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.respond import Answer, Respond, Responded, respond
from runs.tools.registry import Arguments, ServerTool, ToolContext
from tests.llm.listening import listening
from tests.rig import TENANT, Rig, rig
from tests.runs.compaction.test_compaction import CLOCK, LONG, compacted, context, is_well_formed, said, stats
from tests.runs.compaction.windowed import Windowed, WindowedModels, kept_in, words_of
from tests.runs.logs import checked, only
from vocabulary.compaction import CompactionMode, CompactionOverrides, CompactionTrigger
from vocabulary.conversations import AgentTool, Conversation, ConversationStatus
from vocabulary.events import ContextCompacted
from vocabulary.messages import Message, MessageType, ToolCall, ToolCallBody, ToolCallState
from vocabulary.runs import BusyPolicy, ClientTool, Run, RunStatus, StopReason

CAMERA = ClientTool(name="camera", description="Takes a picture.", parameters={"type": "object"})
STEP_THAT_WAITS = [MessageType.TOOL_CALL, MessageType.APPROVAL_REQUEST]


class Saw:
    """A tool that needs an approval."""

    def __init__(self) -> None:
        self.used = 0

    def tool(self) -> ServerTool:
        return ServerTool(name="saw", description="", parameters={"type": "object"}, run=self._run, requires_approval=True)

    async def _run(self, _arguments: Arguments, _context: ToolContext) -> str:
        self.used += 1
        return "sawn"


@asynccontextmanager
async def waiting(database: Database, model: Windowed, saw: Saw, *, turns: int = 3) -> AsyncGenerator[tuple[Rig, Conversation]]:
    """After some turns the model has called three tools: one has returned, one waits for an approval, one for the client."""
    async with rig(database, models=WindowedModels(model), tools=[CLOCK, saw.tool()]) as parley:
        given = (AgentTool(name="clock"), AgentTool(name="saw"))
        agent = await create_agent(
            parley.engine, TENANT, NewAgent(name="tester", model=model.handle, instructions="Be brief.", tools=given)
        )
        conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))
        for number in range(turns):
            await said(parley, conversation, f"Number {number}, keep-{number}: {LONG}")
        run = await parley.ended((await parley.say(conversation.id, "tool clock saw camera", client_tools=(CAMERA,))).run)
        assert run.stop_reason is StopReason.REQUIRES_APPROVAL
        yield parley, conversation


async def _pending(parley: Rig, conversation: Conversation) -> Sequence[ToolCall]:
    body = only(await parley.history(conversation.id), MessageType.APPROVAL_REQUEST).body
    assert isinstance(body, ToolCallBody)
    return body.tool_calls


async def _respond(parley: Rig, conversation: Conversation) -> Responded:
    saw, camera = await _pending(parley, conversation)
    decisions: list[tuple[ToolCall, Decision]] = [(saw, Approve()), (camera, Result("click"))]
    answers = tuple(Answer(tool_call_id=call.id, decision=decision) for call, decision in decisions)
    return await respond(parley.engine, TENANT, Respond(conversation_id=conversation.id, answers=answers))


def _returned(asked: ModelRequest) -> list[str]:
    """What the model is told of its calls."""
    called, returned = asked.history[-2:]
    assert isinstance(called, ToolCallTurn)
    assert isinstance(returned, ToolReturnTurn)
    assert [call.name for call in called.calls] == ["clock", "saw", "camera"]
    return [item.output for item in returned.returns]


def _types(shown: Sequence[Message]) -> list[MessageType]:
    return [message.type for message in shown]


@pytest.mark.parametrize("mode", CompactionMode)
async def test_what_waits_is_kept_and_answered_afterwards(database: Database, mode: CompactionMode) -> None:
    model, saw = Windowed(), Saw()
    async with waiting(database, model, saw) as (parley, conversation):
        step = (await context(parley, conversation))[-2:]
        pending = await _pending(parley, conversation)
        run = await compacted(parley, conversation, CompactionOverrides(mode=mode, sliding_window_fraction=0.5))
        assert run.status is RunStatus.COMPLETED, run.error

        shown = await context(parley, conversation)
        assert _types(shown[:2]) == [MessageType.SYSTEM, MessageType.SUMMARY]
        assert (shown[-2:], _types(step)) == (step, STEP_THAT_WAITS)
        assert (len(shown) == 4) == (mode in (CompactionMode.ALL, CompactionMode.SELF_COMPACT_ALL))
        assert (await stats(parley, run)).messages_after == len(shown)
        assert "saw" not in " ".join(words_of(turn).replace("tool clock saw camera", "") for turn in model.summaries[-1].history)
        assert await _pending(parley, conversation) == pending
        assert [call.state for call in pending] == [ToolCallState.AWAITING_APPROVAL, ToolCallState.AWAITING_CLIENT]
        assert (await parley.read(conversation.id)).status is ConversationStatus.AWAITING_INPUT
        assert saw.used == 0

        gone_on = await parley.ended((await _respond(parley, conversation)).run)
        assert (gone_on.status, gone_on.stop_reason, saw.used) == (RunStatus.COMPLETED, StopReason.END_TURN, 1)
        asked = model.answers[-1]
        assert asked.system == "Be brief."
        assert words_of(asked.history[0]).endswith(shown[1].text)
        assert [words_of(turn) for turn in asked.history[1:-2]] == [message.text for message in shown[2:-2]]
        assert _returned(asked) == ["It is noon. " * 10, "sawn", "click"]
        is_well_formed(asked.history)
        assert kept_in(asked) == {"keep-0", "keep-1", "keep-2"}
        async with listening() as providers:
            await providers.take(asked)

        assert (await compacted(parley, conversation)).status is RunStatus.COMPLETED
        assert (await said(parley, conversation, "And now?")).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)


async def test_beside_what_waits_too_little_is_refused_as_ever(database: Database) -> None:
    async with waiting(database, model := Windowed(), Saw(), turns=0) as (parley, conversation):
        with pytest.raises(NothingToCompact):
            await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        assert (model.summaries, (await parley.read(conversation.id)).status) == ([], ConversationStatus.AWAITING_INPUT)


async def _begun(parley: Rig, conversation: Conversation, model: Windowed) -> Run:
    """A compaction whose summariser waits for `before_summary`."""
    model.before_summary = asyncio.Event()
    asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
    await asyncio.wait_for(model.summarising.wait(), 20)
    return asked.run


async def test_what_is_answered_during_a_compaction_goes_on_after_it(database: Database) -> None:
    model, saw = Windowed(), Saw()
    async with waiting(database, model, saw) as (parley, conversation):
        before = len(await context(parley, conversation))
        compacting = await _begun(parley, conversation, model)
        done = await _respond(parley, conversation)
        assert done.run.status is RunStatus.QUEUED
        assert model.before_summary is not None
        model.before_summary.set()
        assert (await parley.ended(compacting)).status is RunStatus.COMPLETED
        assert (await parley.ended(done.run)).stop_reason is StopReason.END_TURN
        assert (saw.used, _returned(model.answers[-1])[1:]) == (1, ["sawn", "click"])
        is_well_formed(model.answers[-1].history)
        told = await stats(parley, compacting)
        assert told.messages_before == before + 1  # the response
        assert told.messages_after == len(await context(parley, conversation)) - 2  # the returns and the last answer came after it
        await checked(parley, conversation.id)


async def test_a_cancelled_compaction_leaves_what_waits(database: Database) -> None:
    model, saw = Windowed(), Saw()
    async with waiting(database, model, saw) as (parley, conversation):
        shown, pending = await context(parley, conversation), await _pending(parley, conversation)
        compacting = await _begun(parley, conversation, model)
        with pytest.raises(PendingApproval):
            await parley.say(conversation.id, "Meanwhile?")
        await cancel_run(parley.engine, TENANT, compacting.id)
        assert (await parley.ended(compacting)).status is RunStatus.CANCELLED
        assert (await context(parley, conversation), await _pending(parley, conversation)) == (shown, pending)
        assert (await parley.read(conversation.id)).status is ConversationStatus.AWAITING_INPUT
        await parley.ended((await _respond(parley, conversation)).run)
        assert (saw.used, _returned(model.answers[-1])[1:]) == (1, ["sawn", "click"])
        await checked(parley, conversation.id)


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
async def test_whoever_ends_the_waiting_during_a_compaction_ends_that_too(database: Database, how: str) -> None:
    model, saw = Windowed(), Saw()
    async with waiting(database, model, saw) as (parley, conversation):
        compacting = await _begun(parley, conversation, model)
        if how == "cancelled":
            [cancelled] = await cancel_conversation(parley.engine, TENANT, conversation.id)
            assert cancelled.run.id == compacting.id
            await said(parley, conversation, "And now?")
        else:
            await parley.ended((await parley.say(conversation.id, "And now?", when_busy=BusyPolicy.INTERRUPT)).run)
        assert (await parley.ended(compacting)).status is RunStatus.CANCELLED
        assert {call.state for call in await _pending(parley, conversation)} == {ToolCallState.DENIED}
        assert saw.used == 0
        assert words_of(model.answers[-1].history[-1]) == "And now?"
        is_well_formed(model.answers[-1].history)
        await checked(parley, conversation.id)


async def test_an_overflow_of_the_run_that_goes_on_keeps_calls_with_their_returns(database: Database) -> None:
    model, saw = Windowed(), Saw()
    async with waiting(database, model, saw, turns=12) as (parley, conversation):
        model.window = 500
        run = await parley.ended((await _respond(parley, conversation)).run)
        assert (run.status, run.error, saw.used) == (RunStatus.COMPLETED, None, 1)
        assert model.refused
        is_well_formed(model.answers[-1].history)
        told = [event.payload.stats for event in await checked(parley, conversation.id) if isinstance(event.payload, ContextCompacted)]
        assert {one.trigger for one in told} == {CompactionTrigger.CONTEXT_OVERFLOW}
