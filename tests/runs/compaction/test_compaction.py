"""Compactions that somebody asks for: what becomes of the context and the history, and that whatever fails changes nothing."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from db import messages, runs
from db.engine import Database
from db.paging import Window
from llm.model import AssistantTurn, ToolCallTurn, ToolReturnTurn, Turn, UserTurn
from llm.registry import ModelNotFound
from llm.tokens import count
from runs.commands.agents import AgentChange, NewAgent, create_agent, update_agent
from runs.commands.cancel import cancel_conversation, cancel_run
from runs.commands.compact import CompactRequest, NothingToCompact, compact
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.fork import NewFork, fork_conversation
from runs.commands.idempotency import IdempotencyConflict
from runs.commands.send import ConversationBusy
from runs.compaction.summariser import ACKNOWLEDGEMENT, PROMPT
from runs.heads import ConversationNotFound
from runs.tools.registry import Arguments, ServerTool, ToolContext
from streams.bus import Bus
from tests.db.failing import FailingDatabase
from tests.llm.listening import Providers, listening
from tests.rig import TENANT, Rig, collect, rig
from tests.runs.compaction.windowed import Windowed, WindowedModels, kept_in, words_of
from tests.runs.logs import checked, eventually, only, rows, statuses, steps
from tests.streams.client import Client
from vocabulary.compaction import CompactionMode, CompactionOverrides, CompactionSettings, CompactionStats, CompactionTrigger
from vocabulary.conversations import AgentTool, Conversation, ConversationStatus
from vocabulary.events import CaughtUp, ContextCompacted, DeltaMode, MessageChanged
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody, ToolCallBody, ToolReturnBody
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import BusyPolicy, CancelOutcome, Run, RunErrorType, RunKind, RunStatus, StopReason

ALL = CompactionOverrides(mode=CompactionMode.ALL)
LONG = "a tale of many words, told at length, " * 4


async def _noon(_arguments: Arguments, _context: ToolContext) -> str:
    return "It is noon. " * 10


CLOCK = ServerTool(name="clock", description="Tells the time.", parameters={"type": "object"}, run=_noon)


@asynccontextmanager
async def talking(
    database: Database, *models: Windowed, bus: Bus | None = None, settings: CompactionSettings | None = None, turns: int = 4
) -> AsyncGenerator[tuple[Rig, Conversation]]:
    """A conversation in which so much was said."""
    await asyncio.to_thread(
        count, ""
    )  # its vocabulary is loaded beside the loop, in which the model counts: nothing must stand there for long
    async with rig(database, bus=bus, models=WindowedModels(*models), tools=[CLOCK]) as parley:
        new = NewAgent(
            name="tester",
            model=models[0].handle,
            instructions="Be brief.",
            tools=(AgentTool(name="clock"),),
            compaction_settings=settings or CompactionSettings(),
        )
        agent = await create_agent(parley.engine, TENANT, new)
        conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))
        for number in range(turns):
            await said(parley, conversation, f"Number {number}, keep-{number}: {LONG}")
        yield parley, conversation


async def said(parley: Rig, conversation: Conversation, text: str) -> Run:
    return await parley.ended((await parley.say(conversation.id, text)).run)


async def compacted(parley: Rig, conversation: Conversation, given: CompactionOverrides = ALL, **more: str) -> Run:
    asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id, settings=given, **more))
    return await parley.ended(asked.run)


async def context(parley: Rig, conversation: Conversation) -> list[Message]:
    async with parley.database.read() as connection:
        return (await messages.contexts(connection, [conversation.id]))[conversation.id]


async def stats(parley: Rig, run: Run) -> CompactionStats:
    async with parley.database.read() as connection:
        body = only(await messages.of_run(connection, run.id), MessageType.SUMMARY).body
    assert isinstance(body, SummaryBody)
    assert body.stats is not None
    return body.stats


async def whole_history(parley: Rig, conversation: Conversation, *, forward: bool) -> list[Message]:
    """Page by page."""
    found: list[Message] = []
    edge, more = None, True
    while more:
        window = Window(size=7, forward=forward, after=edge if forward else None, before=None if forward else edge)
        async with parley.database.read() as connection:
            pages = await messages.pages(connection, [conversation.id], messages.Filter(include_errors=True), window)
        page = pages[conversation.id]
        items = [piece.item for piece in page.slices]
        found = [*found, *items] if forward else [*items, *found]
        more = page.has_next if forward else page.has_previous
        edge = page.slices[-1 if forward else 0].key if items else None
    return found


# ---- what becomes of it


async def test_all_leaves_the_system_message_and_a_summary(database: Database, bus: Bus) -> None:
    async with talking(database, model := Windowed(), bus=bus) as (parley, conversation):
        history = await parley.history(conversation.id)
        run = await compacted(parley, conversation)
        assert (run.kind, run.status, run.stop_reason, run.error) == (RunKind.COMPACTION, RunStatus.COMPLETED, StopReason.END_TURN, None)
        system, summary = await context(parley, conversation)
        assert (system.type, system.id) == (MessageType.SYSTEM, history[0].id)
        assert (summary.type, summary.text, summary.in_tail) == (MessageType.SUMMARY, "They talked. keep-0 keep-1 keep-2 keep-3", False)
        told = await stats(parley, run)
        assert (told.trigger, told.mode, told.messages_before, told.messages_after) == (CompactionTrigger.MANUAL, CompactionMode.ALL, 9, 2)
        assert told.tokens_after < told.tokens_before
        assert run.usage.requests == 1
        [step] = await steps(parley, run.id)
        assert (step.kind, step.usage, step.completed_at is not None) == (RunKind.COMPACTION, run.usage, True)
        assert (await parley.read(conversation.id)).status is ConversationStatus.IDLE
        await said(parley, conversation, "And now?")
        assert model.answers[-1].system == "Be brief."
        first, last = model.answers[-1].history
        assert summary.text in words_of(first)
        assert words_of(last) == "And now?"
        await checked(parley, conversation.id)


async def test_a_sliding_window_keeps_what_is_newest(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        run = await compacted(parley, conversation, CompactionOverrides(sliding_window_fraction=0.5))
        shown = await context(parley, conversation)
        assert [message.type for message in shown[:2]] == [MessageType.SYSTEM, MessageType.SUMMARY]
        assert len(shown) > 2
        assert (await stats(parley, run)).mode is CompactionMode.SLIDING_WINDOW
        evicted = "".join(words_of(turn) for turn in model.summaries[-1].history)
        assert "keep-0" in evicted
        assert "keep-3" not in evicted


async def test_the_next_summary_is_told_the_one_before(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        await compacted(parley, conversation)
        await said(parley, conversation, "More, keep-more.")
        await compacted(parley, conversation)
        [asked] = model.summaries[-1].history
        assert "Summary of what was said before:\nThey talked. keep-0" in words_of(asked)
        [_, summary] = await context(parley, conversation)
        assert summary.text == "They talked. keep-0 keep-1 keep-2 keep-3 keep-more"
        first, second = [message for message in await parley.history(conversation.id) if message.type is MessageType.SUMMARY]
        assert (first.in_context, second.in_context) == (False, True)


@pytest.mark.parametrize("mode", CompactionMode)
async def test_however_often_the_history_is_whole_and_the_request_is_system_summary_and_tail(
    database: Database, mode: CompactionMode
) -> None:
    async with talking(database, model := Windowed(), turns=1) as (parley, conversation), listening() as providers:
        for number in range(1, 21):
            await said(parley, conversation, f"keep-{number} {LONG}")
            match number % 4:
                case 0:
                    await said(parley, conversation, "tool clock")
                case 1:
                    await _cancels_a_send(parley, conversation)
                case 2:
                    await _cancels_a_compaction(parley, conversation, model, mode)
                case _:
                    await _forks(parley, conversation, model)
            await _compacts(parley, conversation, model, mode)
            if number in (1, 2, 5, 20):
                await _is_whole(parley, conversation, compactions=number)
                await _is_shown(parley, conversation, model, providers)
        await _forks(parley, conversation, model, mode)
        assert {f"keep-{number}" for number in range(1, 21)} <= kept_in(model.answers[-1])


async def _compacts(parley: Rig, conversation: Conversation, model: Windowed, mode: CompactionMode) -> None:
    """What is no longer shown was told to the summariser, and the rest is shown as before."""
    before = await context(parley, conversation)
    run = await compacted(parley, conversation, CompactionOverrides(mode=mode))
    assert run.status is RunStatus.COMPLETED, run.error
    system, summary, *kept = await context(parley, conversation)
    evicted = before[1 : len(before) - len(kept)]
    assert (system, kept) == (before[0], before[len(before) - len(kept) :])
    assert summary.type is MessageType.SUMMARY
    told = "\n".join(map(words_of, model.summaries[-1].history))
    assert all(message.text in told for message in evicted)
    counts = await stats(parley, run)
    assert (counts.messages_before, counts.messages_after) == (len(before), 2 + len(kept))


async def _cancels_a_send(parley: Rig, conversation: Conversation) -> None:
    sent = await parley.say(conversation.id, "Never mind.")
    await cancel_run(parley.engine, TENANT, sent.run.id)
    await parley.ended(sent.run)


async def _cancels_a_compaction(parley: Rig, conversation: Conversation, model: Windowed, mode: CompactionMode) -> None:
    """In its middle, with something said meanwhile, which is answered then."""
    shown = await context(parley, conversation)
    model.before_summary = asyncio.Event()
    model.summarising.clear()
    request = CompactRequest(conversation_id=conversation.id, settings=CompactionOverrides(mode=mode))
    asked = await compact(parley.engine, TENANT, request)
    await asyncio.wait_for(model.summarising.wait(), 20)
    sent = await parley.say(conversation.id, "Meanwhile?")
    await cancel_run(parley.engine, TENANT, asked.run.id)
    model.before_summary = None
    assert (await parley.ended(asked.run)).status is RunStatus.CANCELLED
    assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
    assert (await context(parley, conversation))[: len(shown)] == shown
    assert len(model.answers[-1].history) == len(shown)  # without the system message, and with what was said meanwhile


async def _is_whole(parley: Rig, conversation: Conversation, *, compactions: int) -> None:
    """Page by page, forwards and backwards, with everything that the log tells of."""
    await checked(parley, conversation.id)
    forwards, backwards = [await whole_history(parley, conversation, forward=forward) for forward in (True, False)]
    assert forwards == backwards == await parley.history(conversation.id)
    assert [message.ordinal for message in forwards] == list(range(1, len(forwards) + 1))
    assert [message.created_at for message in forwards] == sorted(message.created_at for message in forwards)
    assert sum(message.type is MessageType.SUMMARY for message in forwards) == compactions
    shown = await context(parley, conversation)
    assert {message.id for message in forwards if message.in_context} == {message.id for message in shown}


async def _is_shown(parley: Rig, conversation: Conversation, model: Windowed, providers: Providers) -> None:
    """System message, summary and tail are all that the next request holds, and every provider would take it."""
    system, summary, *tail = await context(parley, conversation)
    await said(parley, conversation, "And now?")
    asked = model.answers[-1]
    assert (asked.system, system.text, summary.type) == ("Be brief.", "Be brief.", MessageType.SUMMARY)
    first, *rest = map(words_of, asked.history)
    assert first.endswith(f"\n\n{summary.text}")
    assert rest == [*map(_words, tail), "And now?"]
    is_well_formed(asked.history)
    await providers.take(asked)


def _words(message: Message) -> str:
    match message.body:
        case ToolCallBody(tool_calls=calls):
            return " ".join(f"{call.name} {call.arguments_text}" for call in calls)
        case ToolReturnBody(tool_returns=returns):
            return " ".join(item.output for item in returns)
        case _:
            return message.text


async def _forks(parley: Rig, conversation: Conversation, model: Windowed, mode: CompactionMode | None = None) -> None:
    """What the source would be asked next, its fork is asked; and neither knows of the other. `mode`: in which the fork is compacted."""
    before = await parley.history(conversation.id)
    fork = await fork_conversation(parley.engine, TENANT, NewFork(conversation_id=conversation.id))
    shown = await context(parley, conversation)
    assert [(message.type, message.text) for message in await context(parley, fork)] == [(message.type, message.text) for message in shown]
    await said(parley, fork, f"In the fork? {LONG}")
    asked = model.answers[-1].history
    assert words_of(asked[-1]) == f"In the fork? {LONG}"
    assert len(asked) == len(shown)
    is_well_formed(asked)
    if mode is not None:
        run = await compacted(parley, fork, CompactionOverrides(mode=mode))
        assert run.status is RunStatus.COMPLETED, run.error
    assert await parley.history(conversation.id) == before


def is_well_formed(history: Sequence[Turn]) -> None:
    """Begins with a user's turn, and a call is followed by its returns."""
    assert isinstance(history[0], UserTurn)
    for turn, following in zip(history, [*history[1:], None], strict=True):
        if isinstance(turn, ToolCallTurn):
            assert isinstance(following, ToolReturnTurn)
            assert [call.call_id for call in turn.calls] == [item.call_id for item in following.returns]
        if isinstance(following, ToolReturnTurn):
            assert isinstance(turn, ToolCallTurn)


async def test_a_client_that_follows_knows_what_is_in_context(database: Database, bus: Bus) -> None:
    async with talking(database, Windowed(), bus=bus, turns=2) as (parley, conversation):
        for mode in (CompactionMode.SLIDING_WINDOW, CompactionMode.ALL, CompactionMode.SELF_COMPACT_SLIDING_WINDOW):
            live = asyncio.create_task(
                collect(
                    parley.reader.follow(conversation.id, after=0, mode=DeltaMode.ALL),
                    lambda item, mode=mode: isinstance(item.payload, ContextCompacted) and item.payload.stats.mode is mode,
                )
            )
            await said(parley, conversation, f"More. {LONG}")
            await said(parley, conversation, f"And more. {LONG}")
            await compacted(parley, conversation, CompactionOverrides(mode=mode))
            client = Client()
            for item in await live:
                client.take(item)
            replayed = Client()
            items = parley.reader.follow(conversation.id, after=0, mode=DeltaMode.COALESCED)
            for item in await collect(items, lambda item: isinstance(item.payload, CaughtUp)):
                replayed.take(item)
            for seen in (client, replayed):
                told = {id_: message.in_context for id_, message in seen.messages.items()}
                assert told == {message.id: message.in_context for message in await parley.history(conversation.id)}


async def test_the_system_message_is_compiled_again(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, instructions="Be kind."))
        await said(parley, conversation, "Hi")
        assert model.answers[-1].system == "Be brief."
        await compacted(parley, conversation)
        await said(parley, conversation, "Hi")
        assert model.answers[-1].system == "Be kind."
        changed = [event.payload.message for event in await parley.stored(conversation.id) if isinstance(event.payload, MessageChanged)]
        assert [(message.type, message.text, message.ordinal) for message in changed] == [(MessageType.SYSTEM, "Be kind.", 1)]


# ---- how the summary is asked for


async def test_a_summariser_of_its_own_is_asked_with_its_own_settings_and_prompt(database: Database) -> None:
    own, other = Windowed(), Windowed(handle="test/other")
    async with talking(database, own, other) as (parley, conversation):
        given = replace(ALL, model="test/other", prompt=f"Sum up. {PROMPT}", clip_chars=9)
        run = await compacted(parley, conversation, given)
        assert run.model == "test/other"
        [asked] = other.asked
        assert asked.system == f"Sum up. {PROMPT}"
        assert (await context(parley, conversation))[1].text == "They talk"
        assert own.summaries == []


async def test_an_acknowledged_prompt_is_a_turn_that_the_model_has_agreed_to(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        await compacted(parley, conversation, replace(ALL, mode=CompactionMode.SELF_COMPACT_ALL, prompt_acknowledgement=True))
        agreed = [words_of(turn) for turn in model.asked[-1].history[-3:]]
        assert agreed[0] == PROMPT
        assert agreed[1] == ACKNOWLEDGEMENT


async def test_who_sums_itself_up_is_shown_what_it_was_shown_before(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        await compacted(parley, conversation, replace(ALL, mode=CompactionMode.SELF_COMPACT_ALL, model="test/windowed"))
        before, asked = model.answers[-1], model.summaries[-1]
        assert (asked.system, asked.tools) == (before.system, before.tools)
        assert asked.history[: len(before.history)] == before.history
        assert isinstance(asked.history[-2], AssistantTurn)


async def test_a_summariser_whose_window_is_too_small_is_given_less(database: Database) -> None:
    own, small = Windowed(), Windowed(700, handle="test/small")
    async with talking(database, own, small, turns=20) as (parley, conversation):
        await said(parley, conversation, "tool clock")
        run = await compacted(parley, conversation, replace(ALL, model="test/small"))
        assert run.status is RunStatus.COMPLETED, run.error
        [asked] = small.asked
        assert "characters left out" in words_of(asked.history[0])
        assert "keep-0" in words_of(asked.history[0])
        small.window = 10
        for number in range(3):
            await said(parley, conversation, f"{number} {LONG}")
        failed = await compacted(parley, conversation, replace(ALL, model="test/small"))
        assert failed.error is not None
        assert (failed.error.type, failed.stop_reason) == (RunErrorType.CONTEXT_WINDOW_OVERFLOW, StopReason.CONTEXT_WINDOW_OVERFLOW)


async def test_the_conversations_own_model_sums_up_with_its_own_settings_but_at_any_length(database: Database) -> None:
    own, other = Windowed(), Windowed(handle="test/other")
    async with talking(database, own, other, turns=1) as (parley, conversation):
        of_agent = {"temperature": 0.3, "max_output_tokens": 11}
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, model_settings=of_agent))

        async def asked(model: Windowed, given: CompactionOverrides) -> ModelSettings:
            await said(parley, conversation, LONG)
            assert (await compacted(parley, conversation, given)).status is RunStatus.COMPLETED
            return model.summaries[-1].settings

        assert await asked(own, ALL) == ModelSettings(temperature=0.3)
        assert own.answers[-1].settings == ModelSettings(temperature=0.3, max_output_tokens=11)
        assert await asked(own, replace(ALL, mode=CompactionMode.SELF_COMPACT_ALL)) == ModelSettings(temperature=0.3)
        limited = replace(ALL, model_settings=ModelSettings(max_output_tokens=99))
        assert await asked(own, limited) == ModelSettings(temperature=0.3, max_output_tokens=99)
        assert await asked(other, replace(ALL, model="test/other")) == ModelSettings()


@pytest.mark.parametrize("mode", [CompactionMode.ALL, CompactionMode.SELF_COMPACT_ALL])
async def test_a_window_that_the_prompt_alone_fills_is_refused_by_name_and_nobody_is_asked(
    database: Database, mode: CompactionMode
) -> None:
    async with talking(database, model := Windowed(), turns=2) as (parley, conversation):
        shown = await context(parley, conversation)
        run = await compacted(parley, conversation, replace(ALL, mode=mode, model_settings=ModelSettings(context_window=200)))
        assert run.error is not None
        assert (run.status, run.error.type) == (RunStatus.FAILED, RunErrorType.CONTEXT_WINDOW_OVERFLOW)
        assert run.stop_reason is StopReason.CONTEXT_WINDOW_OVERFLOW
        assert "window of 200 tokens is too small" in run.error.message
        assert (model.summaries, await steps(parley, run.id)) == ([], [])
        assert await context(parley, conversation) == shown
        assert (await said(parley, conversation, "And now?")).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)


# ---- refused, failed, cancelled: nothing has changed


async def test_too_little_is_refused_before_a_model_is_asked(database: Database) -> None:
    async with talking(database, model := Windowed(), turns=0) as (parley, conversation):
        before = await rows(database)
        with pytest.raises(NothingToCompact):
            await compacted(parley, conversation)
        assert await rows(database) == before
        await said(parley, conversation, LONG)
        await compacted(parley, conversation)
        with pytest.raises(NothingToCompact):
            await compacted(parley, conversation)
        assert len(model.summaries) == 1


async def test_unknown_models_and_conversations_are_refused(database: Database) -> None:
    async with talking(database, Windowed()) as (parley, conversation):
        with pytest.raises(ModelNotFound):
            await compacted(parley, conversation, replace(ALL, model="no/such"))
        with pytest.raises(ConversationNotFound):
            await compact(parley.engine, "elsewhere", CompactRequest(conversation_id=conversation.id))


INEFFECTIVE: dict[str, tuple[str, RunErrorType, StopReason]] = {
    "longer than what it replaces": ("word " * 9000, RunErrorType.COMPACTION_INEFFECTIVE, StopReason.ERROR),
    "empty": ("", RunErrorType.LLM_EMPTY_RESPONSE, StopReason.INVALID_LLM_RESPONSE),
    "blank": (" \n ", RunErrorType.LLM_EMPTY_RESPONSE, StopReason.INVALID_LLM_RESPONSE),
}


@pytest.mark.parametrize("case", INEFFECTIVE)
async def test_a_summary_that_is_no_use_fails_and_changes_nothing(database: Database, case: str) -> None:
    summary, error, stop_reason = INEFFECTIVE[case]
    async with talking(database, Windowed(summary=lambda _: summary)) as (parley, conversation):
        before, shown = await parley.read(conversation.id), await context(parley, conversation)
        run = await compacted(parley, conversation)
        assert run.error is not None
        assert (run.status, run.error.type, run.stop_reason) == (RunStatus.FAILED, error, stop_reason)
        assert run.usage.requests == 1
        after = await parley.read(conversation.id)
        assert (after.summary_message_id, after.tail_ordinal) == (before.summary_message_id, before.tail_ordinal)
        assert await context(parley, conversation) == shown
        assert (await said(parley, conversation, "And now?")).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)


async def test_it_is_refused_while_something_runs_and_what_is_sent_meanwhile_waits(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        model.before_summary = asyncio.Event()
        asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        await asyncio.wait_for(model.summarising.wait(), 20)
        with pytest.raises(ConversationBusy):
            await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        assert (await parley.read(conversation.id)).status is ConversationStatus.RUNNING
        sent = await parley.say(conversation.id, "Meanwhile, keep-meanwhile")
        assert sent.messages[0].status is MessageStatus.QUEUED
        model.before_summary.set()
        assert (await parley.ended(asked.run)).status is RunStatus.COMPLETED
        assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        assert words_of(model.answers[-1].history[-1]) == "Meanwhile, keep-meanwhile"
        await checked(parley, conversation.id)


@pytest.mark.parametrize("how", ["run", "conversation", "interrupt"])
async def test_it_can_be_cancelled_in_the_middle_and_then_nothing_has_changed(database: Database, bus: Bus, how: str) -> None:
    async with talking(database, model := Windowed(), bus=bus) as (parley, conversation):
        model.before_summary = asyncio.Event()
        shown = await context(parley, conversation)
        asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        await asyncio.wait_for(model.summarising.wait(), 20)
        await eventually(lambda: _has_step(parley, asked.run))  # which is stored while the model is asked
        match how:
            case "run":
                assert (await cancel_run(parley.engine, TENANT, asked.run.id)).outcome is CancelOutcome.CANCELLED
            case "conversation":
                await cancel_conversation(parley.engine, TENANT, conversation.id)
            case _:
                await parley.ended((await parley.say(conversation.id, "Stop!", when_busy=BusyPolicy.INTERRUPT)).run)
        run = await parley.ended(asked.run)
        assert (run.status, run.usage.estimated) == (RunStatus.CANCELLED, True)
        assert (await context(parley, conversation))[: len(shown)] == shown
        assert statuses(await checked(parley, conversation.id), run.id)[-1] is RunStatus.CANCELLED


async def _has_step(parley: Rig, run: Run) -> bool:
    return bool(await steps(parley, run.id))


async def test_the_same_key_compacts_once(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        request = CompactRequest(conversation_id=conversation.id, settings=ALL, idempotency_key="k", body_hash="h")
        first = await compact(parley.engine, TENANT, request)
        again = await compact(parley.engine, TENANT, request)
        assert (again.run.id, again.deduplicated, first.deduplicated) == (first.run.id, True, False)
        await parley.ended(first.run)
        assert (await compact(parley.engine, TENANT, request)).run.status is RunStatus.COMPLETED
        with pytest.raises(IdempotencyConflict):
            await compact(parley.engine, TENANT, replace(request, body_hash="other"))
        assert len(model.summaries) == 1


async def test_a_database_that_is_away_when_the_summary_is_there_is_waited_for(database_url: str) -> None:
    database = FailingDatabase.open(database_url)
    async with talking(database, model := Windowed()) as (parley, conversation):
        model.before_summary = asyncio.Event()
        asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        await asyncio.wait_for(model.summarising.wait(), 20)
        await eventually(lambda: _has_step(parley, asked.run))
        database.recovered, database.failures = asyncio.Event(), 2
        model.before_summary.set()
        await asyncio.wait_for(database.recovered.wait(), 20)
        run = await parley.ended(asked.run)
        assert run.status is RunStatus.COMPLETED, run.error
        assert len(model.summaries) == 1
        await checked(parley, conversation.id)
    await database.close()


async def test_a_compaction_that_loses_its_worker_begins_anew(database: Database) -> None:
    async with talking(database, model := Windowed()) as (parley, conversation):
        model.before_summary = asyncio.Event()
        asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        await asyncio.wait_for(model.summarising.wait(), 20)
    model.before_summary = None
    async with rig(database, models=WindowedModels(model), tools=[CLOCK]) as parley:
        run = await parley.ended(asked.run)
        assert run.status is RunStatus.COMPLETED, run.error
        assert len(model.summaries) == 2
        assert [message.type for message in await context(parley, conversation)][:2] == [MessageType.SYSTEM, MessageType.SUMMARY]
        await checked(parley, conversation.id)
        async with parley.database.read() as connection:
            found = await runs.get(connection, run.id)
        assert found is not None
        assert found.attempt == 1
