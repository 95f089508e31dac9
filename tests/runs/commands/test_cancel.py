"""Cancelling at any moment: what stays, what the model is shown next, that nothing is written afterwards, and who is told."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text as sql

from db import runs
from db.engine import Database
from llm.endpoints import CompatibleServer
from llm.model import AssistantTurn, ToolCallTurn, ToolReturnTurn, UserTurn
from llm.registry import ModelRegistry
from runs.commands.cancel import Cancelled, NoActiveRuns, RunNotFound, cancel_conversation, cancel_run
from runs.heads import ConversationNotFound
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from streams.bus import Bus, MemoryBus
from streams.redis_bus import RedisBus
from tests.provider import Answer, Provider
from tests.rig import TENANT, Rig, rig
from tests.runs.doubt import Interrupted
from tests.runs.logs import call_states, checked, only, running, said, statuses, steps, taken_out, until
from tests.runs.processes import Servers, worker
from tests.runs.scripted import USAGE, Cue, Models, Scripted, call, finished, reasoning, text
from tests.streams.buses import running as bus_running
from vocabulary.conversations import Conversation, ConversationStatus
from vocabulary.events import ConversationChanged, DeltaMode, MessageCompleted, RunChanged
from vocabulary.messages import MessageStatus, MessageType, TextPart, ToolCallState, ToolReturnBody
from vocabulary.runs import BusyPolicy, CancelOutcome, Run, RunStatus, StopReason

on_postgresql = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
QUIET = 60.0


def half() -> list[Cue]:
    return [*text("Half an", " answer")[:-1], asyncio.Event()]


def ended(payload: object) -> bool:
    return isinstance(payload, RunChanged) and payload.status is RunStatus.CANCELLED


def sure(database: Database) -> WorkerLimits:
    """No heartbeat helps: who stops was told."""
    return WorkerLimits(sole=database.is_sqlite, lease_s=5 * QUIET, reconcile_s=QUIET)


@asynccontextmanager
async def scripted(database: Database, bus: Bus, model: Scripted, *tools: ServerTool) -> AsyncGenerator[tuple[Rig, Conversation]]:
    async with rig(database, bus=bus, models=Models(model), tools=tools, worker_limits=sure(database)) as parley:
        yield parley, await parley.conversation(model="test/scripted", tools=[tool.name for tool in tools])


async def cancel(parley: Rig, run: Run) -> Cancelled:
    return await cancel_run(parley.engine, TENANT, run.id)


async def hung_up(model: Scripted) -> None:
    await asyncio.wait_for(model.left.wait(), 20)


async def is_silent_after(parley: Rig, conversation: Conversation, events: int) -> None:
    """Another run has come and gone, and nothing of the cancelled one has been written since."""
    after = await parley.say(conversation.id, "And now?")
    await parley.ended(after.run)
    log = await checked(parley, conversation.id)
    assert {event.run_id for event in log[events:]} == {after.run.id, None}


# ---- each moment of a run


async def test_a_run_that_waits_is_cancelled_and_the_others_go_on(database: Database, bus: Bus) -> None:
    gate = asyncio.Event()
    async with scripted(database, bus, Scripted([*text("Wait"), gate, *finished()])) as (parley, conversation):
        first = await parley.say(conversation.id, "First")
        await until(parley, conversation.id, said("Wait"))
        second, third = await parley.say(conversation.id, "Second"), await parley.say(conversation.id, "Third")
        cancelled = await cancel(parley, second.run)
        assert (cancelled.outcome, cancelled.run.status, cancelled.run.stop_reason) == (
            CancelOutcome.CANCELLED, RunStatus.CANCELLED, StopReason.CANCELLED,
        )  # fmt: skip
        assert (await parley.read(conversation.id)).status is ConversationStatus.RUNNING
        gate.set()
        for sent in (first, third):
            assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        events = await checked(parley, conversation.id)
        assert [message.text for message in taken_out(events)] == ["Second"]


async def test_before_the_first_token_in_a_silent_model_the_model_is_hung_up_on(database: Database, bus: Bus) -> None:
    asked = asyncio.Event()
    async with scripted(database, bus, model := Scripted([asked.set, asyncio.Event()])) as (parley, conversation):
        sent = await parley.say(conversation.id, "Hi")
        await asyncio.wait_for(asked.wait(), 20)
        cancelled = await cancel(parley, sent.run)
        await hung_up(model)
        assert (cancelled.run.completed_at is not None, cancelled.run.time_to_first_token_ms) == (True, None)
        events = await checked(parley, conversation.id)
        assert statuses(events, sent.run.id)[-1] is RunStatus.CANCELLED
        await is_silent_after(parley, conversation, len(events))
        assert model.requests[1].history == [UserTurn((TextPart("Hi"),)), UserTurn((TextPart("And now?"),))]


async def test_in_the_middle_of_tokens_what_was_said_stays_and_is_shown_to_the_model(database: Database, bus: Bus) -> None:
    async with scripted(
        database, bus, model := Scripted([*reasoning("Hm."), *text("Half an", " answer", index=1)[:-1], asyncio.Event()])
    ) as (
        parley,
        conversation,
    ):
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("answer"))
        cancelled = await cancel(parley, sent.run)
        await hung_up(model)
        history = await parley.history(conversation.id)
        assert [(message.type, message.text, message.status, message.in_context) for message in history[1:]] == [
            (MessageType.USER, "Hi", MessageStatus.COMPLETED, True),
            (MessageType.REASONING, "Hm.", MessageStatus.COMPLETED, True),
            (MessageType.ASSISTANT, "Half an answer", MessageStatus.INTERRUPTED, True),
        ]
        usage = cancelled.run.usage
        assert (usage.requests, usage.estimated, usage.input_tokens, usage.output_tokens) == (1, True, 3, 5)  # a token per 4 characters
        [step] = await steps(parley, sent.run.id)
        assert (step.usage, step.stop_reason, step.completed_at) == (usage, StopReason.CANCELLED, None)
        started, first = cancelled.run.started_at, only(history, MessageType.REASONING).created_at
        assert started is not None
        assert cancelled.run.time_to_first_token_ms == round((first - started).total_seconds() * 1000)
        await is_silent_after(parley, conversation, len(await parley.stored(conversation.id)))
        assert AssistantTurn("Half an answer") in model.requests[1].history


async def test_in_a_long_tool_its_call_is_answered_and_the_tool_is_stopped(database: Database, bus: Bus) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def work(_arguments: Arguments, _context: ToolContext) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise
        return ""

    tool = ServerTool(name="work", description="Takes long.", parameters={"type": "object"}, run=work)
    async with scripted(database, bus, model := Scripted([*call("work", "{}"), *finished()]), tool) as (parley, conversation):
        sent = await parley.say(conversation.id, "Hi")
        await asyncio.wait_for(begun.wait(), 20)
        assert not (await cancel(parley, sent.run)).run.usage.estimated  # the model's call was over
        await asyncio.wait_for(stopped.wait(), 20)
        events = await checked(parley, conversation.id)
        assert call_states(events)[-1] == ToolCallState.INTERRUPTED
        returned = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
        assert isinstance(returned, ToolReturnBody)
        assert "unknown" in returned.tool_returns[0].output
        await is_silent_after(parley, conversation, len(events))
        assert [type(turn) for turn in model.requests[1].history] == [UserTurn, ToolCallTurn, ToolReturnTurn, UserTurn]


async def test_usage_of_earlier_steps_is_as_reported_and_only_the_cut_one_is_estimated(database: Database, bus: Bus) -> None:
    async def run(_arguments: Arguments, _context: ToolContext) -> str:
        return "Done."

    tool = ServerTool(name="work", description="Works.", parameters={"type": "object"}, run=run)
    model = Scripted([*call("work", "{}"), *finished()], half())
    async with scripted(database, bus, model, tool) as (parley, conversation):
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("answer"))
        usage = (await cancel(parley, sent.run)).run.usage
        first, second = await steps(parley, sent.run.id)
        assert (first.usage, second.usage.estimated, second.usage.requests) == (USAGE, True, 1)
        assert usage == first.usage + second.usage


# ---- twice, too late, elsewhere


async def test_twice_is_once_and_what_has_ended_has_ended(database: Database, bus: Bus) -> None:
    async with scripted(database, bus, Scripted(half())) as (parley, conversation):
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("answer"))
        outcomes = [one.outcome for one in await asyncio.gather(*(cancel(parley, sent.run) for _ in range(5)))]
        assert sorted(outcomes) == [*[CancelOutcome.ALREADY_ENDED] * 4, CancelOutcome.CANCELLED]
        before = await parley.stored(conversation.id)
        again = await cancel(parley, sent.run)
        assert (again.outcome, again.run.status) == (CancelOutcome.ALREADY_ENDED, RunStatus.CANCELLED)
        assert await parley.stored(conversation.id) == before


async def test_against_a_run_that_is_just_finishing_one_of_both_wins(database: Database, bus: Bus) -> None:
    """Whatever the moment: one end, told once, and as the answer said."""
    gates = [asyncio.Event() for _ in range(25)]
    model = Scripted(*([*text(f"Answer {number}"), gate, *finished()] for number, gate in enumerate(gates)))
    async with scripted(database, bus, model) as (parley, conversation):
        for number, gate in enumerate(gates):
            sent = await parley.say(conversation.id, "Hi")
            await until(parley, conversation.id, said(f"Answer {number}"))
            gate.set()
            for _ in range(number * 3):
                await asyncio.sleep(0)
            cancelled = await cancel(parley, sent.run)
            was_cut = cancelled.outcome is CancelOutcome.CANCELLED
            assert cancelled.run.status is (RunStatus.CANCELLED if was_cut else RunStatus.COMPLETED)
            assert cancelled.run.usage.estimated is was_cut
            assert (await parley.ended(sent.run)).status is cancelled.run.status
        await checked(parley, conversation.id)


async def test_what_is_not_there_or_anothers_is_not_found(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await parley.say(conversation.id, "Hi")
    await parley.ended(sent.run)
    before = await parley.stored(conversation.id)
    for tenant, run_id in ((TENANT, "run-unknown"), ("somebody else", sent.run.id)):
        with pytest.raises(RunNotFound):
            await cancel_run(parley.engine, tenant, run_id)
    for tenant, id_ in ((TENANT, "conv-unknown"), ("somebody else", conversation.id)):
        with pytest.raises(ConversationNotFound):
            await cancel_conversation(parley.engine, tenant, id_)
    with pytest.raises(NoActiveRuns):
        await cancel_conversation(parley.engine, TENANT, conversation.id)
    assert await parley.stored(conversation.id) == before


async def test_a_conversation_is_cancelled_with_its_queue(database: Database, bus: Bus) -> None:
    async with scripted(database, bus, model := Scripted(half())) as (parley, conversation):
        first = await parley.say(conversation.id, "First")
        await until(parley, conversation.id, said("answer"))
        sent = [first, *[await parley.say(conversation.id, f"Number {number}") for number in range(3)]]
        cancelled = await cancel_conversation(parley.engine, TENANT, conversation.id)
        assert [(one.run.id, one.outcome) for one in cancelled] == [(one.run.id, CancelOutcome.CANCELLED) for one in sent]
        await hung_up(model)
        assert (await parley.read(conversation.id)).status is ConversationStatus.IDLE
        events = await checked(parley, conversation.id)
        assert isinstance(events[-1].payload, ConversationChanged)
        assert [message.text for message in taken_out(events)] == ["Number 0", "Number 1", "Number 2"]
        await is_silent_after(parley, conversation, len(events))
        assert len(model.requests) == 2


async def test_one_run_that_cannot_be_cancelled_does_not_keep_the_others_going(database: Database, bus: Bus) -> None:
    async with rig(database, bus=bus, worker_limits=replace(sure(database), concurrency=0)) as parley:
        conversation = await parley.conversation()
        sent = [await parley.say(conversation.id, f"Number {number}") for number in range(3)]
        async with database.write() as connection:
            await connection.execute(sql(REFUSAL[database.is_sqlite].format(sent[1].run.id)))
        cancelled = await cancel_conversation(parley.engine, TENANT, conversation.id)
        assert [(one.outcome, one.run.status) for one in cancelled] == [
            (CancelOutcome.CANCELLED, RunStatus.CANCELLED),
            (CancelOutcome.FAILED, RunStatus.QUEUED),
            (CancelOutcome.CANCELLED, RunStatus.CANCELLED),
        ]
        assert [message.text for message in taken_out(await parley.stored(conversation.id))] == ["Number 2"]


REFUSAL = {
    True: "CREATE TRIGGER refuse BEFORE UPDATE ON runs WHEN new.id = '{}' BEGIN SELECT RAISE(ABORT, 'refused'); END",
    False: "ALTER TABLE runs ADD CONSTRAINT refuse CHECK (id <> '{}' OR status <> 'CANCELLED')",
}


async def test_a_signal_that_is_lost_only_means_that_the_fence_finds_out(database: Database) -> None:
    class Deaf(MemoryBus):
        def signal(self, recipient: str, subject: str) -> None:
            pass

    gate = asyncio.Event()
    model = Scripted([*text("Half")[:-1], gate, *text("more", index=1), asyncio.Event()])
    async with scripted(database, Deaf(), model) as (parley, conversation):
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        await cancel(parley, sent.run)
        events = await checked(parley, conversation.id)
        gate.set()
        await hung_up(model)  # though it is silent again: the first word that was refused ends the call
        await is_silent_after(parley, conversation, len(events))


async def test_whoever_hangs_up_while_a_cancel_is_committed_has_cancelled_and_the_worker_is_told(interrupted: Interrupted) -> None:
    async with scripted(interrupted, MemoryBus(), model := Scripted(half())) as (parley, conversation):
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("answer"))
        cancelling = asyncio.create_task(cancel(parley, sent.run), name="mutation")
        interrupted.whose, interrupted.interrupt = "mutation", cancelling.cancel
        with pytest.raises(asyncio.CancelledError):
            await cancelling
        await hung_up(model)
        await until(parley, conversation.id, ended)
        await is_silent_after(parley, conversation, len(await checked(parley, conversation.id)))


# ---- interrupting


async def test_an_interrupting_send_goes_before_the_queue_and_is_shown_what_was_said(database: Database, bus: Bus) -> None:
    async with scripted(database, bus, model := Scripted(half())) as (parley, conversation):
        first = await parley.say(conversation.id, "First")
        await until(parley, conversation.id, said("answer"))
        queued = [await parley.say(conversation.id, f"Queued {number}") for number in range(2)]
        urgent = await parley.say(conversation.id, "Stop!", when_busy=BusyPolicy.INTERRUPT)
        assert (urgent.messages[0].status, urgent.run.goes_first) == (MessageStatus.COMPLETED, True)
        assert (await parley.ended(first.run)).status is RunStatus.CANCELLED
        for sent in (urgent, *queued):
            assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        events = await checked(parley, conversation.id)
        begun = [event.run_id for event in events if running(event.payload)]
        assert list(dict.fromkeys(begun)) == [first.run.id, urgent.run.id, *(sent.run.id for sent in queued)]
        assert [message.text for message in await parley.history(conversation.id)][1:] == [
            "First", "Half an answer", "Stop!", "Done.", "Queued 0", "Done.", "Queued 1", "Done.",
        ]  # fmt: skip
        assert [type(turn) for turn in model.requests[1].history] == [UserTurn, AssistantTurn, UserTurn]
        [over] = [event.sequence for event in events if event.run_id == first.run.id and ended(event.payload)]
        between = events[over : urgent.applied_through_sequence - 1]
        assert [type(event.payload) for event in between] == [MessageCompleted, RunChanged]  # nobody is told that it was idle


async def test_an_interrupting_send_replaces_what_would_have_run_next_with_its_input_in_history(database: Database, bus: Bus) -> None:
    limits = replace(sure(database), concurrency=0)
    async with rig(database, bus=bus, worker_limits=limits) as idle:
        conversation = await idle.conversation()
        first = await idle.say(conversation.id, "First")
        queued = await idle.say(conversation.id, "Queued")
        second, third = [await idle.say(conversation.id, said_, when_busy=BusyPolicy.INTERRUPT) for said_ in ("Second", "Third")]
        async with idle.database.read() as connection:
            live = (await runs.live(connection, [conversation.id]))[conversation.id]
            unattended = await runs.unattended(connection)
        assert [run.id for run in live] == [third.run.id, queued.run.id]
        assert [one.run_id for one in unattended] == [third.run.id]
        for sent in (first, second):
            assert (await idle.ended(sent.run)).status is RunStatus.CANCELLED
        assert [message.text for message in await idle.history(conversation.id)] == ["Be brief.", "First", "Second", "Third"]


async def test_an_interrupting_send_leaves_a_queue_alone_of_which_nothing_has_begun(database: Database, bus: Bus) -> None:
    async with rig(database, bus=bus, worker_limits=replace(sure(database), concurrency=0)) as idle:
        conversation = await idle.conversation()
        first, queued = [await idle.say(conversation.id, said_) for said_ in ("First", "Queued")]
        await cancel(idle, first.run)
        before = await idle.read(conversation.id)
        urgent = await idle.say(conversation.id, "Urgent", when_busy=BusyPolicy.INTERRUPT)
        async with idle.database.read() as connection:
            live = (await runs.live(connection, [conversation.id]))[conversation.id]
        assert [run.id for run in live] == [urgent.run.id, queued.run.id]
        assert (await idle.read(conversation.id)).last_run_completed_at == before.last_run_completed_at


async def test_an_interrupting_send_to_an_idle_conversation_interrupts_nothing(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await parley.say(conversation.id, "Hi", when_busy=BusyPolicy.INTERRUPT)
    assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
    await checked(parley, conversation.id)


@pytest.mark.parametrize("policy", [BusyPolicy.INTERRUPT, BusyPolicy.REJECT])
async def test_a_retry_never_cancels_and_is_never_refused(database: Database, bus: Bus, policy: BusyPolicy) -> None:
    async with scripted(database, bus, Scripted(half())) as (parley, conversation):
        sent = await asyncio.gather(
            *(parley.say(conversation.id, "Hi", idempotency_key="k", body_hash="h", when_busy=policy) for _ in range(20))
        )
        assert len({one.run.id for one in sent}) == 1
        await until(parley, conversation.id, said("answer"))
        again = await parley.say(conversation.id, "Hi", idempotency_key="k", body_hash="h", when_busy=policy)
        assert (again.run.id, again.run.status, again.deduplicated) == (sent[0].run.id, RunStatus.RUNNING, True)
        await cancel(parley, again.run)
        over = await parley.say(conversation.id, "Hi", idempotency_key="k", body_hash="h", when_busy=policy)
        assert (over.run.status, over.deduplicated) == (RunStatus.CANCELLED, True)


# ---- over real wires


async def test_the_provider_sees_its_connection_closed(remote: Rig, provider: Provider) -> None:
    provider.script(Answer(text=["Half an", " answer"], stall_after=3))
    conversation = await remote.conversation(model="local/m")
    sent = await remote.say(conversation.id, "Hi")
    await until(remote, conversation.id, said("answer"))
    await cancel(remote, sent.run)
    await provider.until(lambda: len(provider.disconnects) == 1)
    after = await remote.say(conversation.id, "Go on.")
    await remote.ended(after.run)
    asked = [(message["role"], message["content"]) for message in provider.requests[1].body["messages"]]
    assert asked == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Half an answer"), ("user", "Go on.")]


@pytest.fixture
async def servers(database_url: str, redis_url: str) -> Servers:
    return Servers(database_url, redis_url)


@asynccontextmanager
async def distributed(servers: Servers, database: Database, provider: Provider) -> AsyncGenerator[Rig]:
    """The API's side: runs are others' work, on the bus that they share."""
    models = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})
    async with bus_running(RedisBus(servers.redis_url)) as bus, rig(database, bus=bus, models=models, works=False) as parley:
        yield parley


def of_provider(provider: Provider, **more: str) -> dict[str, str]:
    return {"PROVIDERS": f'{{"local": {{"base_url": "{provider.base_url}"}}}}', **more}


@on_postgresql
async def test_on_another_machine_the_silent_call_ends_at_once_and_so_does_one_of_a_worker_that_was_stopped(
    servers: Servers, database: Database, provider: Provider
) -> None:
    stalled = Answer(text=["Half an", " answer"], stall_after=3)
    provider.script(stalled, stalled, stalled)
    async with distributed(servers, database, provider) as parley, worker(servers, **of_provider(provider, LEASE_S="3600")) as other:
        conversation = await parley.conversation(model="local/m")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("answer"))
        async with asyncio.timeout(20):  # long before its next heartbeat, which would tell it
            await cancel(parley, sent.run)
            await provider.until(lambda: len(provider.disconnects) == 1)
        again = await parley.say(conversation.id, "Once more")
        await until_said_again(parley, conversation, again.run)
        other.signal(signal.SIGSTOP)
        async with asyncio.timeout(20):
            assert (await cancel(parley, again.run)).outcome is CancelOutcome.CANCELLED
        events = await parley.stored(conversation.id)
        other.signal(signal.SIGCONT)
        await provider.until(lambda: len(provider.disconnects) == 2)
        assert await parley.stored(conversation.id) == events
        last = await parley.say(conversation.id, "And again")
        await until_said_again(parley, conversation, last.run)
        other.signal(signal.SIGKILL)
        await other.ended(within_s=20)
        async with asyncio.timeout(20):
            assert (await cancel(parley, last.run)).outcome is CancelOutcome.CANCELLED
        await checked(parley, conversation.id)


async def until_said_again(parley: Rig, conversation: Conversation, run: Run) -> None:
    async with asyncio.timeout(20):
        async for item in parley.reader.follow(conversation.id, after=None, mode=DeltaMode.ALL, run=run):
            if said("answer")(item.payload):
                return
