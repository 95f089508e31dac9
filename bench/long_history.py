"""What the length of a conversation costs: pages at its beginning, middle and end, and reading the context of its next run.

The model is shown the same number of messages in a conversation of 1,000 and in one of 100,000, as after a compaction.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from statistics import median

from bench.figures import Figure
from bench.ground import Ground
from db import conversations, messages
from db.engine import Connection, Database
from db.messages import Filter
from db.paging import Window
from llm.registry import ModelRegistry
from tests.db.rows import a_conversation, a_message, store, store_agent
from vocabulary.conversations import Conversation
from vocabulary.ids import Noun, new_id
from vocabulary.messages import MessageType

SHORT, LONG = 1_000, 100_000
SHOWN = 200
PAGE = 50
TIMES = 40
STORED_AT_ONCE = 5_000

Reading = Callable[[Connection], Awaitable[object]]


async def long_history(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for kind in ground.kinds:
        async with ground.engine(kind, ModelRegistry()) as parley:
            short, long = await _stored(parley.database, SHORT), await _stored(parley.database, LONG)
            figures += await _pages(parley.database, kind, long)
            figures += await _contexts(parley.database, kind, short, long)
    return figures


async def _stored(database: Database, length: int) -> Conversation:
    async with database.write() as connection:
        agent = await store_agent(connection)
        system_id = new_id(Noun.MESSAGE)
        conversation = a_conversation(agent.id, system_message_id=system_id, tail_ordinal=length - SHOWN + 1)
        await store(connection, conversation, head_sequence=length, next_ordinal=length + 1)
        system = a_message(conversation.id, id=system_id, type=MessageType.SYSTEM, in_tail=False)
        await messages.create(connection, [system])
        template = a_message(conversation.id, text="something was said, and it was neither long nor short")
        for start in range(2, length + 1, STORED_AT_ONCE):
            numbers = range(start, min(start + STORED_AT_ONCE, length + 1))
            said = [replace(template, id=new_id(Noun.MESSAGE), ordinal=number, sequence=number) for number in numbers]
            await messages.create(connection, said)
    async with database.read() as connection:
        return (await conversations.read(connection, [conversation.id]))[conversation.id]


async def _pages(database: Database, kind: str, conversation: Conversation) -> list[Figure]:
    def page(window: Window) -> Reading:
        return lambda connection: messages.pages(connection, [conversation.id], Filter(), window)

    places = {
        "first": page(Window(size=PAGE)),
        "middle": page(Window(size=PAGE, after=(LONG // 2,))),
        "last": page(Window(size=PAGE, forward=False)),
        "last but one": page(Window(size=PAGE, forward=False, before=(LONG - PAGE + 1,))),
    }
    taken = await _in_turn(database, places)
    first = f"{kind}, first page of {LONG:,}"
    return [Figure(f"{kind}, {place} page of {LONG:,}", ms, "ms", None if place == "first" else first) for place, ms in taken.items()]


async def _contexts(database: Database, kind: str, short: Conversation, long: Conversation) -> list[Figure]:
    def context(conversation: Conversation) -> Reading:
        return lambda connection: messages.context(connection, conversation)

    taken = await _in_turn(database, {f"{SHORT:,}": context(short), f"{LONG:,}": context(long)})
    labels = {length: f"{kind}, context in a conversation of {length}" for length in taken}
    against = labels[f"{SHORT:,}"]
    return [Figure(labels[length], ms, "ms", None if labels[length] == against else against) for length, ms in taken.items()]


async def _in_turn(database: Database, readings: dict[str, Reading]) -> dict[str, float]:
    """Median milliseconds of each, made in turn."""
    times: dict[str, list[float]] = {label: [] for label in readings}
    for _ in range(TIMES):
        for label, reading in readings.items():
            async with database.read() as connection:
                started = time.perf_counter()
                await reading(connection)
                times[label].append((time.perf_counter() - started) * 1000)
    return {label: median(taken) for label, taken in times.items()}
