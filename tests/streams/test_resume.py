"""Resuming from everywhere: from each position that a subscriber in any mode ever stood at, in any mode, it comes to the same end.

One conversation with two runs, the second of them queued while the first goes on: reasoning, a tool call with its return, text, and
characters outside the basic plane in all of them. It is watched from its beginning in each mode; what those three clients held after
each item is where the resumed ones begin. The run is held at some delta, or has ended, or its deltas have been pruned.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from db.engine import Database
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from streams.bus import Bus
from streams.reader import Reader
from tests.rig import Rig, rig
from tests.runs.scripted import Models
from tests.streams.client import State
from tests.streams.pacing import PacedModel
from tests.streams.watching import DEADLINE_S, Audience, Watcher, audience
from vocabulary.events import DeltaMode, MessageDelta
from vocabulary.messages import MessageStatus, MessageType
from vocabulary.runs import Run, RunStatus

FIRST = '/think /tool telescope {"at": "🪐🪐 and 🌘🌘"}'
SECOND = "🚀 to 🪐 and 👩‍🚀 back"
ALL_DELTAS = 29
"""9 of reasoning, 3 of arguments, 9 of text, then 8 of the second run's text."""
HELD_AFTER = [1, 5, 11, 13, 19, 26]
"""In the middle of each part: at its last delta a run does not stand still, its end follows unasked."""


async def look(_arguments: Arguments, _context: ToolContext) -> str:
    return "𝄞 rings 🪐 of ice"


TELESCOPE = ServerTool(name="telescope", description="Looks.", parameters={"type": "object"}, run=look)


@dataclass(slots=True)
class Scene:
    """The conversation, and who watched it from its beginning."""

    parley: Rig
    model: PacedModel
    conversation_id: str
    watchers: list[Watcher]
    runs: list[Run] = field(default_factory=list[Run])

    @property
    def everything(self) -> Watcher:
        return next(watcher for watcher in self.watchers if watcher.mode is DeltaMode.ALL)

    async def play(self, *, deltas: int) -> None:
        """Until so many deltas were told, each before the next is said. The second send comes after the first."""
        self.runs.append((await self.parley.say(self.conversation_id, FIRST)).run)
        for number in range(1, deltas + 1):
            self.model.let()
            await self.everything.until(lambda told=number: len(self.everything.told(MessageDelta)) >= told)
            if number == 1:
                self.runs.append((await self.parley.say(self.conversation_id, SECOND)).run)
        await self.everything.reached(self.runs[-1].applied_through_sequence)

    async def finish(self) -> int:
        """Lets the runs go on to their ends, and answers the head."""
        for _ in range(ALL_DELTAS):
            self.model.let()
        for run in self.runs:
            assert (await self.parley.ended(run)).status is RunStatus.COMPLETED
        head = (await self.parley.read(self.conversation_id)).head_sequence
        await self.everything.reached(head)
        return head

    def come_back(self, again: Audience) -> list[tuple[DeltaMode, Watcher]]:
        """Everyone who ever stood anywhere, in every mode; with the mode it had before."""
        return [
            (watcher.mode, again.watch(mode, client=held.reconnected()))
            for watcher in self.watchers
            for held in list(watcher.held.values())
            for mode in DeltaMode
        ]


@asynccontextmanager
async def scene(database: Database, bus: Bus) -> AsyncGenerator[Scene]:
    model = PacedModel()
    async with rig(database, bus=bus, models=Models(model), tools=[TELESCOPE]) as parley:
        conversation = await parley.conversation(tools=["telescope"])
        async with audience(parley.reader, conversation.id) as first:
            watchers = [first.watch(mode) for mode in DeltaMode]
            for watcher in watchers:
                await watcher.caught_up()
            yield Scene(parley, model, conversation.id, watchers)


def holds_text(mode: DeltaMode) -> bool:
    """Whether a client in this mode holds the text of what is not complete yet."""
    return mode is not DeltaMode.NONE


@pytest.mark.parametrize("deltas", HELD_AFTER, ids=lambda n: f"after-delta-{n}")
async def test_a_subscriber_may_resume_from_anywhere_while_a_run_goes_on(database: Database, bus: Bus, deltas: int) -> None:
    async with scene(database, bus) as playing, audience(playing.parley.reader, playing.conversation_id) as again:
        await playing.play(deltas=deltas)
        now = playing.everything.client.state()
        assert any(message.status is MessageStatus.IN_PROGRESS for message in now.messages.values())
        resumed = playing.come_back(again)
        for before, watcher in resumed:
            await watcher.caught_up()
            state = watcher.client.state()
            assert state.finished() == now.finished()
            if holds_text(before) and holds_text(watcher.mode):
                assert state == now
        head = await playing.finish()
        for _, watcher in resumed:
            await watcher.reached(head)
            assert watcher.client.state() == playing.everything.client.state()


async def told_again(playing: Scene, reader: Reader, final: State) -> None:
    """Everyone comes back after the end."""
    async with audience(reader, playing.conversation_id) as again:
        for _, watcher in playing.come_back(again):
            await watcher.caught_up()
            assert watcher.client.state() == final
            assert watcher.client.resets == []


async def test_a_subscriber_may_resume_from_anywhere_after_the_runs_have_ended(database: Database, bus: Bus) -> None:
    async with scene(database, bus) as playing:
        await playing.play(deltas=ALL_DELTAS)
        head = await playing.finish()
        assert set(playing.everything.held) == set(range(head + 1)), "every position is tried"
        await told_again(playing, playing.parley.reader, playing.everything.client.state())


async def test_a_subscriber_may_resume_from_anywhere_after_the_deltas_were_pruned(database: Database, bus: Bus) -> None:
    async with scene(database, bus) as playing:
        await playing.play(deltas=ALL_DELTAS)
        await playing.finish()
        final = playing.everything.client.state()
    async with pruned(database, bus, playing.conversation_id) as parley:
        await told_again(playing, parley.reader, final)


@asynccontextmanager
async def pruned(database: Database, bus: Bus, conversation_id: str) -> AsyncGenerator[Rig]:
    """Served again by a process that keeps deltas for no time; once it has pruned."""
    limits = WorkerLimits(sole=database.is_sqlite, delta_retention_s=0, prune_s=0.01)
    async with rig(database, bus=bus, worker_limits=limits) as parley:
        async with asyncio.timeout(DEADLINE_S):
            while any(isinstance(event.payload, MessageDelta) for event in await parley.stored(conversation_id)):
                pass
        yield parley


async def test_what_is_resumed_here_is_all_there_is_to_resume(database: Database, bus: Bus) -> None:
    async with scene(database, bus) as playing:
        await playing.play(deltas=ALL_DELTAS)
        await playing.finish()
        assert len(playing.everything.told(MessageDelta)) == ALL_DELTAS
        shown = playing.everything.client.state()
        history = await playing.parley.history(playing.conversation_id)
        assert {message.id: replace(message, sequence=0) for message in history} == shown.messages
        assert [message.type for message in history] == [
            MessageType.SYSTEM,
            MessageType.USER,
            MessageType.REASONING,
            MessageType.TOOL_CALL,
            MessageType.TOOL_RETURN,
            MessageType.ASSISTANT,
            MessageType.USER,
            MessageType.ASSISTANT,
        ]
        assert all("🪐" in message.text for message in history if message.type in (MessageType.USER, MessageType.ASSISTANT))
