"""The call that writes a summary is repeated like any other while its provider has no time, visibly; given up, it changes nothing."""

import asyncio

import pytest

from db.engine import Database
from llm.backoff import RetryLimits
from llm.model import Delta, Failed, Finished, ReasoningEnded, ReasoningStarted, TextEnded, TextStarted
from runs.commands.agents import NewAgent, create_agent
from runs.commands.cancel import cancel_run
from runs.commands.compact import CompactRequest, compact
from runs.commands.conversations import NewConversation, create_conversation
from runs.compaction.summary import Summary
from tests.rig import TENANT, Rig, rig
from tests.runs.compaction.test_compaction import ALL, LONG, compacted, context, said
from tests.runs.compaction.windowed import words_of
from tests.runs.logs import checked, steps, until
from tests.runs.scripted import USAGE, Cue, Models, Scripted, call, finished, text
from vocabulary.compaction import CompactionSettings
from vocabulary.conversations import Conversation
from vocabulary.events import MessageCompleted, Payload
from vocabulary.messages import EventBody, Message, MessageType, ReasoningBody
from vocabulary.runs import RunError, RunErrorType, RunKind, RunStatus, StopReason, Usage

HANDLE = "test/summariser"
REFUSED = Usage(requests=1, estimated=True)


def _busy(kind: RunErrorType = RunErrorType.LLM_RATE_LIMIT, *, retry_after_s: float | None = None) -> Failed:
    return Failed(RunError(kind, "Not now."), REFUSED, transient=True, retry_after_s=retry_after_s)


async def _talk(parley: Rig, settings: CompactionSettings | None = None) -> Conversation:
    given = settings or CompactionSettings(model=HANDLE)
    agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", instructions="Be brief.", compaction_settings=given))
    conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))
    for number in range(3):
        await said(parley, conversation, f"Number {number}. {LONG}")
    return conversation


def _told(history: list[Message]) -> list[tuple[object, object]]:
    return [(message.body.data["attempt"], message.body.data["reason"]) for message in history if isinstance(message.body, EventBody)]


async def test_a_summariser_that_has_no_time_is_asked_again_and_that_is_told(database: Database) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    lost = Failed(RunError(RunErrorType.LLM_ERROR, "The connection ended."), Usage(), transient=True)
    refusals = [[_busy()], [_busy(RunErrorType.LLM_OVERLOADED, retry_after_s=7)], [lost]]
    model = Scripted(*refusals, [*text("They talked."), *finished()], handle=HANDLE)
    async with rig(database, models=Models(model), pause=pause) as parley:
        conversation = await _talk(parley)
        run = await compacted(parley, conversation)
        assert (run.status, run.usage) == (RunStatus.COMPLETED, USAGE + Usage(requests=2))
        assert pauses[1] == 7
        assert model.requests == [model.requests[0]] * 4
        [step] = await steps(parley, run.id)
        history = await parley.history(conversation.id)
        assert _told(history) == [(1, "LLM_RATE_LIMIT"), (2, "LLM_OVERLOADED"), (3, "LLM_ERROR")]
        assert {(message.run_id, message.step_id, message.in_context) for message in history if message.type is MessageType.EVENT} == {
            (run.id, step.id, False)
        }
        assert step.usage == run.usage
        assert [message.text for message in await context(parley, conversation)] == ["Be brief.", "They talked."]
        await checked(parley, conversation.id)


async def test_one_that_never_has_time_is_given_up_and_nothing_has_changed(database: Database) -> None:
    model = Scripted(*[[_busy()] for _ in range(3)], handle=HANDLE)
    async with rig(database, models=Models(model), retries=RetryLimits(retries=2)) as parley:
        conversation = await _talk(parley)
        shown = await context(parley, conversation)
        run = await compacted(parley, conversation)
        assert run.error == RunError(RunErrorType.LLM_RATE_LIMIT, "Not now.")
        assert (run.status, run.stop_reason, run.usage) == (RunStatus.FAILED, StopReason.LLM_ERROR, Usage(requests=3, estimated=True))
        assert len(_told(await parley.history(conversation.id))) == 2
        assert await context(parley, conversation) == shown
        assert (await compacted(parley, conversation)).status is RunStatus.COMPLETED  # with none left it says "Done."
        await checked(parley, conversation.id)


@pytest.mark.parametrize("begun", [text("They")[:-1], call("clock", "{")[:-1]], ids=["half a text", "half a call"])
async def test_one_that_was_cut_off_in_the_middle_is_not_asked_again(database: Database, begun: list[Cue]) -> None:
    model = Scripted([*begun, _busy()], handle=HANDLE)
    async with rig(database, models=Models(model)) as parley:
        conversation = await _talk(parley)
        shown = await context(parley, conversation)
        run = await compacted(parley, conversation)
        assert (run.status, len(model.requests)) == (RunStatus.FAILED, 1)
        assert await context(parley, conversation) == shown


def _put_off(payload: Payload | None) -> bool:
    return isinstance(payload, MessageCompleted) and payload.message.type is MessageType.EVENT


async def test_one_that_waits_for_its_next_try_can_be_cancelled_at_once(database: Database) -> None:
    stopped = asyncio.Event()

    async def pause(_: float) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    model = Scripted([_busy()], handle=HANDLE)
    async with rig(database, models=Models(model), pause=pause) as parley:
        conversation = await _talk(parley)
        shown = await context(parley, conversation)
        asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id, settings=ALL))
        await until(parley, conversation.id, _put_off)
        await cancel_run(parley.engine, TENANT, asked.run.id)
        assert (await parley.ended(asked.run)).status is RunStatus.CANCELLED
        await asyncio.wait_for(stopped.wait(), 20)
        assert await context(parley, conversation) == shown
        await checked(parley, conversation.id)


async def test_on_the_way_of_a_run_it_is_asked_again_too(database: Database) -> None:
    model = Scripted([_busy()], [*text("They talked."), *finished()], handle=HANDLE)
    async with rig(database, models=Models(model)) as parley:
        conversation = await _talk(parley, CompactionSettings(model=HANDLE, trigger_fraction=0.001))
        tried = [message.run_id for message in await parley.history(conversation.id) if message.type is MessageType.EVENT]
        [run_id] = tried
        assert run_id is not None
        answering, writing = await steps(parley, run_id)
        assert (answering.kind, writing.kind, writing.usage.requests) == (RunKind.RESPONSE, RunKind.COMPACTION, 2)
        await checked(parley, conversation.id)


async def test_a_summary_that_its_limit_has_cut_is_taken_and_its_step_says_so(database: Database) -> None:
    model = Scripted([*text("They tal"), *finished(StopReason.MAX_TOKENS)], handle=HANDLE)
    async with rig(database, models=Models(model)) as parley:
        conversation = await _talk(parley)
        run = await compacted(parley, conversation)
        [step] = await steps(parley, run.id)
        assert (run.status, run.stop_reason, step.stop_reason) == (RunStatus.COMPLETED, StopReason.END_TURN, StopReason.MAX_TOKENS)
        assert [message.text for message in await context(parley, conversation)] == ["Be brief.", "They tal"]


async def test_a_summary_that_a_content_filter_has_stopped_is_refused_and_nothing_has_changed(database: Database) -> None:
    model = Scripted([*text("I cannot"), *finished(StopReason.CONTENT_FILTER)], handle=HANDLE)
    async with rig(database, models=Models(model)) as parley:
        conversation = await _talk(parley)
        shown = await context(parley, conversation)
        run = await compacted(parley, conversation)
        [step] = await steps(parley, run.id)
        assert run.error == RunError(RunErrorType.LLM_ERROR, "The provider's content filter stopped the summariser.")
        assert (run.status, run.stop_reason, step.stop_reason) == (RunStatus.FAILED, StopReason.CONTENT_FILTER, StopReason.CONTENT_FILTER)
        assert (run.usage, step.usage, len(model.requests)) == (USAGE, USAGE, 1)
        assert await context(parley, conversation) == shown
        await checked(parley, conversation.id)


async def test_on_the_way_of_a_run_a_filtered_summary_takes_nothing_away(database: Database) -> None:
    filtered = [*text("I cannot"), *finished(StopReason.CONTENT_FILTER)]
    model = Scripted(*[filtered for _ in range(3)], handle=HANDLE)
    async with rig(database, models=Models(model)) as parley:
        conversation = await _talk(parley, CompactionSettings(model=HANDLE, trigger_fraction=0.001))
        shown = await context(parley, conversation)
        answer = await steps(parley, shown[-1].run_id or "")
        assert [step.stop_reason for step in answer] == [StopReason.END_TURN, StopReason.CONTENT_FILTER]
        assert [message.type for message in shown].count(MessageType.SUMMARY) == 0
        await checked(parley, conversation.id)


@pytest.mark.parametrize("end", [Finished(REFUSED, StopReason.END_TURN), Failed(RunError(RunErrorType.LLM_ERROR, "Lost."), REFUSED)])
async def test_usage_that_a_summarisers_provider_does_not_tell_is_estimated(database: Database, end: Finished | Failed) -> None:
    model = Scripted([*text("They talked."), end], handle=HANDLE)
    async with rig(database, models=Models(model)) as parley:
        run = await compacted(parley, await _talk(parley))
        [step] = await steps(parley, run.id)
        assert step.usage == run.usage
        assert (run.usage.requests, run.usage.output_tokens, run.usage.estimated) == (1, 3, True)
        [asked] = model.requests
        exactly = (len(asked.system) + len(words_of(asked.history[0]))) // 4
        assert exactly <= run.usage.input_tokens <= exactly + 50


# ---- what counts of it


def test_only_what_is_said_aloud_counts() -> None:
    summary = Summary()
    aloud = [TextStarted(2), Delta(2, " They"), Delta(2, " talked. "), TextEnded(2)]
    for event in [ReasoningStarted(0), Delta(0, "Hm."), ReasoningEnded(0, ReasoningBody()), *aloud, Finished(USAGE, StopReason.END_TURN)]:
        summary.take(event)
    assert (summary.text, summary.error, summary.usage) == ("They talked.", None, USAGE)


def test_silence_is_an_error_and_so_is_a_failure() -> None:
    silent, failed = Summary(), Summary()
    silent.take(Finished(USAGE, StopReason.END_TURN))
    failed.take(_busy())
    assert silent.error is not None
    assert silent.error.type is RunErrorType.LLM_EMPTY_RESPONSE
    assert (failed.error, failed.begun) == (RunError(RunErrorType.LLM_RATE_LIMIT, "Not now."), False)
