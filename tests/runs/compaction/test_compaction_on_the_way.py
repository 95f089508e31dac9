"""Compactions that nobody asks for: by threshold after a step, and when the provider refuses a context as too long."""

import asyncio
from dataclasses import replace

from db.engine import Database
from llm.model import ModelRequest
from runs.commands.agents import AgentChange, update_agent
from runs.commands.cancel import cancel_run
from runs.compaction.context import read_context
from runs.compaction.on_the_way import is_due
from runs.sizes import Sizes
from streams.bus import Bus
from tests.rig import TENANT, Rig, rig
from tests.runs.compaction.test_compaction import CLOCK, LONG, context, said, talking
from tests.runs.compaction.windowed import Windowed, WindowedModels, kept_in, size_of, words_of
from tests.runs.logs import checked, eventually, only, steps
from tests.runs.values import ASKED, RUN, message
from vocabulary.compaction import CompactionMode, CompactionSettings, CompactionTrigger
from vocabulary.conversations import Conversation
from vocabulary.events import ContextCompacted
from vocabulary.messages import MessageStatus, MessageType
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import ClientTool, RunErrorType, RunKind, RunStatus, StopReason, Usage


async def triggers(parley: Rig, conversation: Conversation) -> list[CompactionTrigger]:
    events = await parley.stored(conversation.id)
    return [event.payload.stats.trigger for event in events if isinstance(event.payload, ContextCompacted)]


async def test_a_context_beyond_its_share_of_the_window_is_compacted_with_the_step_that_found_out(database: Database, bus: Bus) -> None:
    async with talking(database, model := Windowed(1000), bus=bus, turns=0) as (parley, conversation):
        runs_ = [await said(parley, conversation, f"keep-{number} {LONG}{LONG}") for number in range(14)]
        assert {run.status for run in runs_} == {RunStatus.COMPLETED}
        assert {run.stop_reason for run in runs_} == {StopReason.END_TURN}
        assert model.refused == []
        told = await triggers(parley, conversation)
        assert told
        assert set(told) == {CompactionTrigger.CONTEXT_THRESHOLD}
        assert max(map(size_of, model.answers)) <= 1000
        assert kept_in(model.answers[-1]) == {f"keep-{number}" for number in range(14)}
        taken = [await steps(parley, run.id) for run in runs_]
        summing, (answering, writing) = next((run, both) for run, both in zip(runs_, taken, strict=True) if len(both) == 2)
        assert (answering.kind, writing.kind) == (RunKind.RESPONSE, RunKind.COMPACTION)
        assert summing.usage == answering.usage + writing.usage
        await checked(parley, conversation.id)


async def test_a_run_goes_on_after_a_compaction_between_its_steps(database: Database) -> None:
    settings = CompactionSettings(trigger_fraction=0.5, mode=CompactionMode.ALL)
    async with talking(database, model := Windowed(1000), settings=settings, turns=10) as (parley, conversation):
        model.window = 900
        run = await said(parley, conversation, "tool clock")
        assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, StopReason.END_TURN)
        assert [step.kind for step in await steps(parley, run.id)].count(RunKind.RESPONSE) == 2
        assert CompactionTrigger.CONTEXT_THRESHOLD in await triggers(parley, conversation)
        await checked(parley, conversation.id)


async def test_what_only_the_provider_finds_too_long_is_compacted_and_the_step_tried_again(database: Database, bus: Bus) -> None:
    async with talking(database, model := Windowed(), bus=bus, turns=20) as (parley, conversation):
        model.window = 1200
        run = await said(parley, conversation, f"keep-last {LONG}")
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert model.refused
        assert size_of(model.answers[-1]) <= 1200
        assert "keep-last" in words_of(model.answers[-1].history[-1])
        assert kept_in(model.answers[-1]) == {"keep-last", *(f"keep-{number}" for number in range(20))}
        assert CompactionTrigger.CONTEXT_OVERFLOW in await triggers(parley, conversation)
        taken = await steps(parley, run.id)
        assert taken[0].stop_reason is StopReason.CONTEXT_WINDOW_OVERFLOW
        assert sum((step.usage for step in taken[1:]), taken[0].usage) == run.usage
        await checked(parley, conversation.id)


async def test_a_window_that_is_smaller_than_is_known_is_found_within_three_attempts(database: Database) -> None:
    model = Windowed()
    async with rig(database, models=WindowedModels(model, told=100_000), tools=[CLOCK]) as parley:
        conversation = await parley.conversation(model="test/windowed")
        for number in range(25):
            await said(parley, conversation, f"keep-{number} {LONG}")
        model.window = 700
        run = await said(parley, conversation, "And now?")
        assert run.status is RunStatus.COMPLETED, run.error
        assert 1 <= len(await triggers(parley, conversation)) <= 3


async def test_what_does_not_fit_after_three_compactions_fails_by_its_name(database: Database) -> None:
    async with talking(database, model := Windowed(), turns=5) as (parley, conversation):
        model.window = 400
        run = await said(parley, conversation, "A message larger than the window. " * 90)
        assert run.error is not None
        assert (run.status, run.error.type) == (RunStatus.FAILED, RunErrorType.CONTEXT_WINDOW_OVERFLOW)
        assert run.stop_reason is StopReason.CONTEXT_WINDOW_OVERFLOW
        await checked(parley, conversation.id)


async def test_a_system_prompt_larger_than_the_window_is_refused_by_name_until_it_is_shorter(database: Database) -> None:
    async with talking(database, model := Windowed(), turns=1) as (parley, conversation):
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, instructions="Be kind. " * 300))
        model.window = 600
        run = await said(parley, conversation, LONG * 20)
        assert run.error is not None
        assert (run.status, run.error.type) == (RunStatus.FAILED, RunErrorType.CONTEXT_WINDOW_OVERFLOW)
        assert "The system prompt alone" in run.error.message
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, instructions="Be kind."))
        assert (await said(parley, conversation, "And now?")).status is RunStatus.COMPLETED
        assert model.answers[-1].system == "Be kind."
        await checked(parley, conversation.id)


async def test_a_system_prompt_that_cannot_fit_is_refused_though_the_provider_would_cut_it_without_a_word(database: Database) -> None:
    model = Windowed()
    async with rig(database, models=WindowedModels(model, told=300)) as parley:
        conversation = await parley.conversation(model=model.handle, instructions="Be kind. " * 300)
        run = await said(parley, conversation, "Hi")
        assert run.error is not None
        assert (run.status, run.error.type) == (RunStatus.FAILED, RunErrorType.CONTEXT_WINDOW_OVERFLOW)
        assert run.stop_reason is StopReason.CONTEXT_WINDOW_OVERFLOW
        assert "The system prompt alone" in run.error.message
        assert (model.asked, await steps(parley, run.id)) == ([], [])
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, instructions="Be kind."))
        assert (await said(parley, conversation, "And now?")).status is RunStatus.COMPLETED
        [answer] = model.asked
        assert (answer.system, [words_of(turn) for turn in answer.history]) == ("Be kind.", ["Hi", "And now?"])
        run = await parley.ended((await parley.say(conversation.id, "Hi", override_system="Be kind. " * 300)).run)
        assert run.error is not None
        assert "The system prompt alone" in run.error.message
        await checked(parley, conversation.id)


BULKY = ClientTool(name="bulky", description="Does much.", parameters={"type": "object", "description": "word " * 1000})


async def test_a_system_prompt_of_one_request_does_not_cost_the_conversation_what_it_remembers(database: Database) -> None:
    async with talking(database, model := Windowed(2000), turns=3) as (parley, conversation):
        shown = await context(parley, conversation)
        await parley.ended((await parley.say(conversation.id, "Hi", override_system="Be kind. " * 560)).run)
        assert size_of(model.answers[-1]) > 1800
        assert await triggers(parley, conversation) == []
        assert (await context(parley, conversation))[: len(shown)] == shown
        run = await parley.ended((await parley.say(conversation.id, "Hi", override_system="Be kind. " * 1000)).run)
        assert run.error is not None
        assert "The system prompt alone" in run.error.message
        await checked(parley, conversation.id)


async def test_what_a_request_had_for_itself_is_not_taken_for_a_part_of_the_conversation(database: Database) -> None:
    async with talking(database, Windowed(), turns=2) as (parley, conversation):

        async def measured_after(**own: object) -> Sizes:
            await parley.ended((await parley.say(conversation.id, "Hi", **own)).run)
            return (await read_context(parley.engine, conversation.id)).sizes

        assert (await measured_after()).counted is not None
        for own in ({"override_system": "Be kind. " * 500}, {"override_system": ""}, {"client_tools": (BULKY,)}):
            assert (await measured_after(**own)).counted is None
            assert (await measured_after()).counted is not None


async def test_it_is_due_when_the_next_request_without_this_ones_own_would_be_too_much(parley: Rig) -> None:
    compiled = message(MessageType.SYSTEM, "Be brief. " * 300, step_id=None, in_tail=False)  # some 900 tokens
    plain = replace(RUN.request, settings=ModelSettings(context_window=2000))
    long, none, tools = replace(plain, override_system="Be kind. " * 500), replace(plain, override_system=""), (BULKY,)
    cases = [
        (plain, 1800, False),
        (plain, 1801, True),
        (long, 1990, False),  # 1,500 of it its own, 900 in their place
        (replace(long, settings=ModelSettings(context_window=1400)), 1990, True),
        (none, 800, False),
        (none, 1000, True),
        (replace(plain, client_tools=tools), 1850, False),  # they leave some 980, 900 of which would have to be taken
        (replace(plain, client_tools=tools), 1990, True),
        (long, 0, False),  # nobody has told, so what there is is estimated
    ]
    for request, counted, due in cases:
        run, usage = replace(RUN, model="demo/echo", request=request), Usage(input_tokens=counted, requests=1)
        assert await is_due(parley.engine, run, CompactionSettings(), usage, [compiled, ASKED]) is due, (request.settings, counted)


def silent(_: ModelRequest) -> str:
    return ""


async def test_a_summary_that_is_no_use_does_not_take_the_answer_away(database: Database) -> None:
    async with talking(database, Windowed(900, summary=silent), turns=0) as (parley, conversation):
        first = [await said(parley, conversation, LONG * 5) for _ in range(4)]
        assert {run.status for run in first} == {RunStatus.COMPLETED}
        assert await triggers(parley, conversation) == []
        tried = [step for run in first for step in await steps(parley, run.id) if step.kind is RunKind.COMPACTION]
        assert [step.stop_reason for step in tried] == [StopReason.INVALID_LLM_RESPONSE]
        await checked(parley, conversation.id)


async def test_cancelled_while_the_summary_is_written_the_answer_stays(database: Database, bus: Bus) -> None:
    async with talking(database, model := Windowed(600), bus=bus, turns=0) as (parley, conversation):
        model.before_summary = asyncio.Event()
        sent = await parley.say(conversation.id, LONG * 14)
        await asyncio.wait_for(model.summarising.wait(), 20)
        await cancel_run(parley.engine, TENANT, sent.run.id)
        run = await parley.ended(sent.run)
        assert run.status is RunStatus.CANCELLED
        answer = only(await parley.history(conversation.id), MessageType.ASSISTANT)
        assert (answer.status, answer.in_context) == (MessageStatus.COMPLETED, True)
        await checked(parley, conversation.id)


async def test_an_answer_is_not_given_twice_when_the_worker_is_lost_during_the_compaction_after_it(database: Database) -> None:
    async with talking(database, model := Windowed(600), turns=0) as (parley, conversation):
        model.before_summary = asyncio.Event()
        sent = await parley.say(conversation.id, LONG * 14)
        await asyncio.wait_for(model.summarising.wait(), 20)

        async def both_steps_are_stored() -> bool:
            return len(await steps(parley, sent.run.id)) == 2

        await eventually(both_steps_are_stored)
    async with rig(database, models=WindowedModels(model), tools=[CLOCK]) as parley:
        run = await parley.ended(sent.run)
        assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, StopReason.END_TURN)
        assert len(model.answers) == 1
        only(await parley.history(conversation.id), MessageType.ASSISTANT)
        answering, abandoned = await steps(parley, run.id)
        assert (answering.stop_reason, abandoned.kind) == (StopReason.END_TURN, RunKind.COMPACTION)
        assert (abandoned.stop_reason, abandoned.completed_at, abandoned.usage.estimated) == (None, None, True)
        await checked(parley, conversation.id)
