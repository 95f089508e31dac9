"""How many events a second go through the engine's one writer, of one conversation and of many that answer at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from bench.figures import Figure
from bench.ground import Ground
from bench.speakers import WORD, Torrent
from db import workers
from runs.commands.send import InputRole, NewMessage, Send, send
from runs.workers.advance import advance
from runs.workers.dispatch import LocalDispatcher
from runs.writing.pen import Pen
from runs.writing.writer import Writer
from runs.writing.writes import Append
from tests.rig import TENANT, Rig
from tests.runs.scripted import Models
from vocabulary.events import CaughtUp, DeltaMode, Item, RunChanged
from vocabulary.ids import Noun, new_id
from vocabulary.messages import MessageType, TextPart
from vocabulary.runs import TERMINAL_STATUSES

OURSELVES = "worker-of-the-benchmark"
MANY = 200
DELTAS = 40_000
LONGEST_S = 120.0


async def append(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for kind in ground.kinds:
        model = Torrent()
        async with ground.engine(kind, Models(model)) as parley:
            await register(parley)
            await _stored_per_s(parley, 2, 1000)  # statements are compiled once
            for conversations in (1, MANY):
                stored = await _stored_per_s(parley, conversations, DELTAS)
                accepted = await _accepted_per_s(parley, model, conversations, DELTAS)
                figures += _figures(kind, conversations, "events stored", stored) + _figures(
                    kind, conversations, "deltas accepted", accepted
                )
    return figures


def _figures(kind: str, conversations: int, what: str, per_s: float) -> list[Figure]:
    one = f"{kind}, 1 conversation, {what}"
    return [Figure(one, per_s, "/s") if conversations == 1 else Figure(f"{kind}, {conversations} conversations, {what}", per_s, "/s", one)]


async def _stored_per_s(parley: Rig, conversations: int, deltas: int) -> float:
    """Deltas that take turns between two texts, so that none merges with its neighbour: one row each."""
    writer = Writer(parley.engine)
    pens = [await held(parley, writer) for _ in range(conversations)]
    before = await _heads(parley, pens)
    writing = asyncio.create_task(writer.run(), name="the benchmark's writer")
    started = time.perf_counter()
    async with asyncio.timeout(LONGEST_S):
        await asyncio.gather(*(_dictate(pen, deltas // conversations) for pen in pens))
    elapsed = time.perf_counter() - started
    writing.cancel()
    await asyncio.wait({writing})
    return (await _heads(parley, pens) - before) / elapsed


async def register(parley: Rig) -> None:
    """As a worker whose heart need not beat."""
    async with parley.engine.log.transaction() as transaction:
        await workers.register(transaction.connection, OURSELVES, lease_s=3600)


async def held(parley: Rig, writer: Writer) -> Pen:
    """A run that we took ourselves before its worker heard of it."""
    unheard = replace(parley.engine, dispatcher=LocalDispatcher())
    conversation = await parley.conversation()
    message = NewMessage(role=InputRole.USER, content=(TextPart("Go."),))
    await send(unheard, TENANT, Send(conversation_id=conversation.id, messages=(message,)))
    lease = await advance(unheard, OURSELVES, conversation.id)
    assert lease is not None, "nobody else was told of this run"
    return Pen(lease, writer)


async def _dictate(pen: Pen, deltas: int) -> None:
    texts = new_id(Noun.MESSAGE), new_id(Noun.MESSAGE)
    for number in range(deltas):
        pen.write(Append(texts[number % 2], MessageType.ASSISTANT, None, number // 2 * len(WORD), WORD))
        await pen.room()
        await asyncio.sleep(0)  # as between the chunks of a model
    await pen.flush()


async def _heads(parley: Rig, pens: Sequence[Pen]) -> int:
    """The sum of what the logs hold: a number is a row."""
    return sum([(await parley.read(pen.conversation_id)).head_sequence for pen in pens])


async def _accepted_per_s(parley: Rig, model: Torrent, conversations: int, deltas: int) -> float:
    """Real runs of a model that never pauses, each with a subscriber that waits for its end.

    Measured from the moment when all of them wait for their first word until the last has ended and is told.
    """
    model.barrier = asyncio.Barrier(conversations + 1)
    each = deltas // conversations
    async with AsyncExitStack() as open_streams:
        streams = [await _answering(parley, model.handle, each, open_streams) for _ in range(conversations)]
        async with asyncio.timeout(LONGEST_S):
            await model.barrier.wait()
            started = time.perf_counter()
            await asyncio.gather(*(_until_ended(items) for items in streams))
            return each * conversations / (time.perf_counter() - started)


async def _answering(parley: Rig, model: str, deltas: int, open_streams: AsyncExitStack) -> AsyncGenerator[Item]:
    """The items of a conversation that is about to be answered."""
    conversation = await parley.conversation(model=model)
    items = parley.reader.follow(conversation.id, after=None, mode=DeltaMode.NONE)
    open_streams.push_async_callback(items.aclose)
    caught_up = await anext(items)
    assert isinstance(caught_up.payload, CaughtUp), "live from now, so nothing comes before it"
    await parley.say(conversation.id, str(deltas))
    return items


async def _until_ended(items: AsyncGenerator[Item]) -> None:
    async for item in items:
        if isinstance(item.payload, RunChanged) and item.payload.status in TERMINAL_STATUSES:
            return
