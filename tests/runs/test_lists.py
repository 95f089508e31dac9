"""What lists show changes only with a version: each command that changes it raises it and says so, and a token does not."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import select

from db import tables
from db.engine import Database
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.send import ConversationBusy
from streams.bus import MemoryBus
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import said, until
from tests.runs.scripted import Cue, Models, Scripted, failed, finished, text
from vocabulary.conversations import Conversation, ConversationStatus
from vocabulary.events import Event
from vocabulary.lists import ListChange, ListChangeKind, ListItem
from vocabulary.runs import BusyPolicy

CREATED, CHANGED, _ = ListChangeKind
IDLE, RUNNING = ConversationStatus.IDLE, ConversationStatus.RUNNING
MANY = [f"{number} " for number in range(20)]


class HearingBus(MemoryBus):
    """Remembers what was said of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[ListItem] = []

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        super().publish(events, lists)
        self.said.extend(lists)

    def told(self, conversation_id: str) -> list[ListChange]:
        return [item for item in self.said if isinstance(item, ListChange) and item.conversation_id == conversation_id]


async def version_of(parley: Rig, conversation_id: str) -> int:
    async with parley.database.read() as connection:
        query = select(tables.heads.c.list_version).where(tables.heads.c.conversation_id == conversation_id)
        return (await connection.execute(query)).scalar_one()


async def heard(parley: Rig, bus: HearingBus, conversation: Conversation) -> list[tuple[ListChangeKind, ConversationStatus]]:
    """What was told, whose versions have no gap and end with what is stored; the last row is the stored one."""
    told = bus.told(conversation.id)
    assert [change.version for change in told] == list(range(1, await version_of(parley, conversation.id) + 1))
    last = told[-1].conversation
    assert last is not None
    assert replace(last, head_sequence=0) == replace(await parley.read(conversation.id), head_sequence=0)
    return [(change.kind, change.conversation.status) for change in told if change.conversation is not None]


@pytest.mark.parametrize("script", [[*text(*MANY), *finished()], [*text(*MANY)[:-1], *failed()]], ids=["completed", "failed"])
async def test_a_run_is_told_when_it_is_queued_and_when_it_ends_and_its_tokens_are_not(database: Database, script: list[Cue]) -> None:
    bus = HearingBus()
    async with rig(database, bus=bus, models=Models(Scripted(script))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await parley.ended((await parley.say(conversation.id, "hello")).run)
        assert await heard(parley, bus, conversation) == [(CREATED, IDLE), (CHANGED, RUNNING), (CHANGED, IDLE)]


async def test_a_conversation_with_somebody_in_line_stays_running(database: Database) -> None:
    bus = HearingBus()
    async with rig(database, bus=bus) as parley:
        conversation = await parley.conversation()
        sent = [await parley.say(conversation.id, words) for words in ("one", "two")]
        for each in sent:
            await parley.ended(each.run)
        told = await heard(parley, bus, conversation)
        assert (told[0], told[-1], len(told)) == ((CREATED, IDLE), (CHANGED, IDLE), 5)
        assert (CHANGED, RUNNING) in told


async def test_what_is_refused_or_repeated_changes_no_list(database: Database) -> None:
    bus, gate = HearingBus(), asyncio.Event()
    async with rig(database, bus=bus, models=Models(Scripted([*text("Wait"), gate, *finished()]))) as parley:
        first = await parley.conversation(model="test/scripted")
        new = NewConversation(agent_id=first.agent_id, idempotency_key="k", body_hash="h")
        second, again = [await create_conversation(parley.engine, TENANT, new) for _ in range(2)]
        assert second.id == again.id
        sent = [await parley.say(first.id, "hello", idempotency_key="k", body_hash="h") for _ in range(2)]
        assert sent[1].deduplicated
        with pytest.raises(ConversationBusy):
            await parley.say(first.id, "busy?", when_busy=BusyPolicy.REJECT)
        await until(parley, first.id, said("Wait"))
        assert [change.kind for change in bus.told(second.id)] == [CREATED]
        assert await heard(parley, bus, first) == [(CREATED, IDLE), (CHANGED, RUNNING)]
        gate.set()
        await parley.ended(sent[0].run)
