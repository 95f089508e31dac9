"""Where a subscription may begin, what it is told then, and when it ends."""

import asyncio

import pytest

from db.engine import Database
from streams.bus import Bus
from streams.hub import HubLimits, NoSuchConversation
from tests.rig import Rig, collect, rig
from tests.runs.scripted import Models
from tests.streams.client import Client
from tests.streams.pacing import PacedModel
from tests.streams.watching import audience, process
from vocabulary.events import (
    CaughtUp,
    DeltaMode,
    Item,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    ResetReason,
    RunChanged,
    StreamReset,
)
from vocabulary.messages import MessageType
from vocabulary.runs import Run, RunStatus


def made(items: list[Item]) -> list[object]:
    """What was not stored."""
    return [item.payload for item in items if isinstance(item.payload, CaughtUp | StreamReset)]


# ---- positions


async def test_without_a_position_it_is_live_from_now(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        teller = await here.teller()
        await teller.say("old")
        items = here.reader.follow(teller.conversation_id, after=None, mode=DeltaMode.ALL)
        first = await anext(items)
        assert (first.payload, first.sequence, first.previous_sequence) == (CaughtUp(1), 1, 1)
        await teller.say("new")
        second = await anext(items)
        assert (second.sequence, second.previous_sequence) == (2, 1)
        assert isinstance(second.payload, MessageCompleted)
        await items.aclose()


async def test_from_nought_everything_is_told_and_then_it_is_live(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        teller = await here.teller()
        for text in ("1", "2"):
            await teller.say(text)
        async with audience(here.reader, teller.conversation_id) as people:
            watcher = people.watch(after=0)
            await watcher.caught_up()
            await teller.say("3")
            await watcher.reached(3)
            assert [item.sequence for item in watcher.items] == [1, 2, 2, 3]
            assert made(watcher.items) == [CaughtUp(2)]


async def test_a_position_beyond_the_head_is_reset_to_it_and_goes_on_live(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        teller = await here.teller()
        await teller.say("1")
        async with audience(here.reader, teller.conversation_id) as people:
            watcher = people.watch(after=7)
            await watcher.caught_up()
            assert made(watcher.items) == [StreamReset(ResetReason.POSITION_AHEAD, 1), CaughtUp(1)]
            assert watcher.items[0].previous_sequence == 7
            await teller.say("2")
            await watcher.reached(2)
            assert [message.text for message in watcher.client.messages.values()] == ["2"]


@pytest.mark.parametrize(("durable", "resets"), [(3, []), (4, [ResetReason.TOO_FAR_BEHIND])])
async def test_more_than_the_longest_replay_behind_is_told_to_ask_anew(
    database: Database, bus: Bus, durable: int, resets: list[ResetReason]
) -> None:
    async with process(database, bus, max_replay=3) as here:
        teller = await here.teller()
        for number in range(durable):
            await teller.say(str(number))
        async with audience(here.reader, teller.conversation_id) as people:
            watcher = people.watch(after=0)
            await watcher.caught_up()
            assert watcher.client.resets == resets
            assert watcher.client.caught_up_at == durable
            await teller.say("live")
            await watcher.reached(durable + 1)
            assert len(watcher.client.messages) == (1 if resets else durable + 1)


async def test_deltas_do_not_count_as_being_behind(database: Database, bus: Bus) -> None:
    async with process(database, bus, max_replay=3) as here:
        teller = await here.teller()
        await teller.start()
        for _ in range(20):
            await teller.grow("🚀")
        await teller.finish()
        async with audience(here.reader, teller.conversation_id) as people:
            for mode in DeltaMode:
                watcher = people.watch(mode, after=0)
                await watcher.caught_up()
                assert watcher.client.resets == []


async def test_what_does_not_exist_cannot_be_followed(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        with pytest.raises(NoSuchConversation):
            await anext(here.reader.follow("conv-none", after=0, mode=DeltaMode.ALL))


# ---- what is told


async def test_a_replay_of_many_pages_tells_what_one_page_would(database: Database, bus: Bus) -> None:
    async with process(database, bus, limits=HubLimits(page_events=2)) as here:
        teller = await here.teller()
        for text in ("🚀 one", "two"):
            await teller.start()
            for piece in text:
                await teller.grow(piece)
            await teller.finish()
        await teller.start()
        for piece in "thr🪐":
            await teller.grow(piece)
        async with process(database) as elsewhere:
            for mode in DeltaMode:
                in_pages = await collect(here.reader.follow(teller.conversation_id, after=0, mode=mode), _is_caught_up)
                at_once = await collect(elsewhere.reader.follow(teller.conversation_id, after=0, mode=mode), _is_caught_up)
                assert folded(in_pages).state() == folded(at_once).state()
                assert made(in_pages) == made(at_once)


def _is_caught_up(item: Item) -> bool:
    return isinstance(item.payload, CaughtUp)


def folded(items: list[Item]) -> Client:
    client = Client(items[0].previous_sequence)
    for item in items:
        client.take(item)
    return client


async def test_what_is_complete_is_shown_complete_and_what_is_not_with_its_text_in_one(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        teller = await here.teller()
        await teller.start()
        await teller.grow("done")
        await teller.finish()
        await teller.start()
        await teller.grow("🚀")
        await teller.grow("half")
        items = await collect(here.reader.follow(teller.conversation_id, after=0, mode=DeltaMode.COALESCED), _is_caught_up)
        assert [(item.sequence, type(item.payload)) for item in items] == [
            (3, MessageCompleted),
            (4, MessageStarted),
            (6, MessageDelta),
            (6, CaughtUp),
        ]
        delta = items[2].payload
        assert isinstance(delta, MessageDelta)
        assert (delta.offset, delta.text) == (0, "🚀half")


async def test_what_is_refused_is_left_out_and_its_number_is_covered_by_the_next_item(database: Database, bus: Bus) -> None:
    async with process(database, bus) as here:
        teller = await here.teller()
        for text in ("1", "2", "3"):
            await teller.say(text)
        follow = here.reader.follow(teller.conversation_id, after=0, mode=DeltaMode.ALL, accepts=lambda event: event.sequence == 2)
        await teller.say("4")
        items = await collect(follow, _is_caught_up)
        assert [(item.previous_sequence, item.sequence) for item in items] == [(0, 2), (2, 4)]


async def test_live_deltas_come_one_by_one_merged_or_not_at_all(database: Database, bus: Bus) -> None:
    """Merged: when the client was slower than they were."""
    async with process(database, bus) as here:
        teller = await here.teller()
        follows = {mode: here.reader.follow(teller.conversation_id, after=0, mode=mode) for mode in DeltaMode}
        for follow in follows.values():
            assert _is_caught_up(await anext(follow))
        await teller.start()
        await teller.grow("🚀")
        await teller.grow("!")
        await teller.finish()
        told = {mode: await collect(follow, lambda item: isinstance(item.payload, MessageCompleted)) for mode, follow in follows.items()}
        assert {mode: [item.sequence for item in items] for mode, items in told.items()} == {
            DeltaMode.ALL: [1, 2, 3, 4],
            DeltaMode.COALESCED: [1, 3, 4],
            DeltaMode.NONE: [1, 4],
        }
        assert [item.previous_sequence for item in told[DeltaMode.NONE]] == [0, 1]


# ---- one run


async def _ended_run(parley: Rig, conversation_id: str, text: str = "Hello") -> Run:
    return await parley.ended((await parley.say(conversation_id, text)).run)


async def _of_run(parley: Rig, run: Run, after: int | None, mode: DeltaMode = DeltaMode.COALESCED) -> list[Item]:
    """To the end of the stream, which comes by itself."""
    return await collect(parley.reader.follow(run.conversation_id, after=after, mode=mode, run=run), lambda _: False)


@pytest.mark.parametrize("mode", DeltaMode)
@pytest.mark.parametrize("after", [None, 0])
async def test_a_run_that_ended_long_ago_is_told_from_its_first_event_to_its_end(parley: Rig, after: int | None, mode: DeltaMode) -> None:
    conversation = await parley.conversation()
    first, run, _ = [await _ended_run(parley, conversation.id, text) for text in ("one", "two", "three")]
    items = await _of_run(parley, run, after, mode)
    assert {item.run_id for item in items} == {run.id}
    assert first.sequence < items[0].sequence <= run.created_sequence
    assert items[0].previous_sequence == (run.created_sequence - 1 if after is None else 0)
    last = items[-1].payload
    assert isinstance(last, RunChanged)
    assert (last.status, items[-1].sequence) == (RunStatus.COMPLETED, run.sequence)
    assert [type(item.payload) for item in items].count(RunChanged) == (1 if mode is not DeltaMode.ALL else 4)


async def test_a_run_that_has_ended_is_over_for_whoever_comes_after_its_last_event(parley: Rig) -> None:
    conversation = await parley.conversation()
    run = await _ended_run(parley, conversation.id)
    head = (await parley.read(conversation.id)).head_sequence
    assert run.sequence < head
    for after in (run.sequence, head):
        assert made(await _of_run(parley, run, after)) == [CaughtUp(head)]
    assert made(await _of_run(parley, run, head + 5)) == [StreamReset(ResetReason.POSITION_AHEAD, head), CaughtUp(head)]


async def test_a_run_can_be_followed_from_the_queue_to_its_end(database: Database, bus: Bus) -> None:
    model = PacedModel()
    async with rig(database, bus=bus, models=Models(model)) as parley:
        conversation = await parley.conversation()
        first = (await parley.say(conversation.id, "one")).run
        second = (await parley.say(conversation.id, "two")).run
        async with audience(parley.reader, conversation.id) as people:
            watchers = {run.id: people.watch(after=run.created_sequence - 1, run=run) for run in (first, second)}
            for watcher in watchers.values():
                await watcher.caught_up()
            for _ in range(20):
                model.let()
            for run_id, watcher in watchers.items():
                await watcher.ended()
                assert {item.run_id for item in watcher.items if not _is_caught_up(item)} == {run_id}
                assert watcher.client.runs[run_id].status is RunStatus.COMPLETED
                assert len(watcher.client.messages) == 2


async def test_exactly_one_item_of_a_run_is_terminal_and_it_is_the_last(database: Database, bus: Bus) -> None:
    model = PacedModel()
    async with rig(database, bus=bus, models=Models(model)) as parley:
        conversation = await parley.conversation()
        run = (await parley.say(conversation.id, "one")).run
        async with audience(parley.reader, conversation.id) as people:
            watchers = [people.watch(mode, after=0, run=run) for mode in DeltaMode]
            for _ in range(10):
                model.let()
            for watcher in watchers:
                await watcher.ended()
                ends = [changed.status.name == "COMPLETED" for changed in watcher.told(RunChanged)]
                assert ends == [False] * (len(ends) - 1) + [True]
                assert isinstance(watcher.items[-1].payload, RunChanged)


async def test_a_run_counts_its_own_events_only(database: Database, bus: Bus) -> None:
    """Its 7: the message, queued, running, the step, the answer's start and end, the end."""
    async with rig(database, bus=bus, max_replay=7) as parley:
        conversation = await parley.conversation()
        runs = [await _ended_run(parley, conversation.id) for _ in range(3)]
        for run in runs:
            assert made(await _of_run(parley, run, None)) == []
            assert made(await _of_run(parley, run, 0)) == []
        whole = await collect(parley.reader.follow(conversation.id, after=0, mode=DeltaMode.ALL), _is_caught_up)
        assert [type(payload) for payload in made(whole)] == [StreamReset, CaughtUp]
    async with rig(database, bus=bus, max_replay=6) as parley:
        head = (await parley.read(conversation.id)).head_sequence
        assert made(await _of_run(parley, runs[0], None)) == [StreamReset(ResetReason.TOO_FAR_BEHIND, head), CaughtUp(head)]


# ---- waiting for a run


async def test_who_waits_for_a_run_is_answered_when_it_has_ended(parley: Rig) -> None:
    conversation = await parley.conversation()
    run = (await parley.say(conversation.id, "Hello")).run
    await parley.reader.wait_for_end(run, seconds=30)
    history = await parley.history(conversation.id)
    assert history[-1].type is MessageType.ASSISTANT


async def test_who_waits_is_answered_when_the_time_is_over_and_at_once_when_the_server_drains(database: Database, bus: Bus) -> None:
    async with rig(database, bus=bus, models=Models(PacedModel())) as parley:
        conversation = await parley.conversation()
        run = (await parley.say(conversation.id, "Hello")).run
        await parley.reader.wait_for_end(run, seconds=0)
        waiting = asyncio.create_task(parley.reader.wait_for_end(run, seconds=600))
        parley.reader.drain()
        async with asyncio.timeout(20):
            await waiting
            await parley.reader.wait_for_end(run, seconds=600)
