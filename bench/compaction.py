"""A conversation of many turns with a small window, unattended: the size of every request, what was refused, what was kept.

And what it costs to read the context of a conversation, by how much was ever said in it.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from db import conversations, messages
from db.engine import Database
from db.migrate import upgrade
from tests.db.rows import a_message, stored_conversation
from tests.runs.compaction.test_compaction import said, talking
from tests.runs.compaction.windowed import Windowed, kept_in, size_of
from vocabulary.runs import RunStatus

TURNS = 500
WINDOW = 2_000
LENGTHS = (1_000, 100_000)
_SHOWN = 50
_READS = 200
_COLUMNS = 60


async def long_conversation(database: Database) -> None:
    async with talking(database, model := Windowed(WINDOW), turns=0) as (parley, conversation):
        started = time.perf_counter()
        await said(parley, conversation, "keep-first: answer in German.")
        for number in range(TURNS):
            text = "tool clock" if number % 10 == 9 else f"Number {number}. " + "More of the same tale. " * (1 + number * 7 % 20)
            run = await said(parley, conversation, text)
            assert run.status is RunStatus.COMPLETED, run.error
        seconds = time.perf_counter() - started
        sizes = [size_of(request) for request in model.answers]
        lost = sum("keep-first" not in kept_in(request) for request in model.answers)
        print(f"{TURNS} turns in {seconds:.1f} s, window {WINDOW}: largest request {max(sizes)}, mean {statistics.mean(sizes):.0f} tokens")
        print(f"summaries {len(model.summaries)}, refused by the provider {len(model.refused)}, requests without the instruction {lost}")
        print(_plot(sizes))


def _plot(sizes: list[int]) -> str:
    """The largest request of each stretch of turns."""
    stretch = max(1, len(sizes) // _COLUMNS)
    highest = [max(sizes[start : start + stretch]) for start in range(0, len(sizes), stretch)]
    return "".join("▁▂▃▄▅▆▇█"[min(7, size * 8 // WINDOW)] for size in highest)


async def context_cost(database: Database) -> None:
    cost: dict[int, float] = {}
    for length in LENGTHS:
        conversation = await stored_conversation(database)
        async with database.write() as connection:
            for start in range(1, length + 1, 1_000):
                numbers = range(start, min(start + 1_000, length + 1))
                await messages.create(connection, [a_message(conversation.id, ordinal=number, text="x" * 400) for number in numbers])
            await conversations.move_contexts(connection, [conversations.ContextMove(conversation.id, "message-none", length - _SHOWN + 1)])
        async with database.read() as connection:
            [conversation] = (await conversations.read(connection, [conversation.id])).values()
            times: list[float] = []
            for _ in range(_READS):
                started = time.perf_counter()
                assert len(await messages.context(connection, conversation)) == _SHOWN
                times.append(time.perf_counter() - started)
        cost[length] = statistics.median(times) * 1000
        print(f"context of {_SHOWN} messages out of {length}: {cost[length]:.2f} ms")
    print(f"ratio {cost[LENGTHS[-1]] / cost[LENGTHS[0]]:.2f}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(f"sqlite+aiosqlite:///{Path(folder) / 'bench.db'}")
        await upgrade(database)
        try:
            await context_cost(database)
            await long_conversation(database)
        finally:
            await database.close()


if __name__ == "__main__":
    asyncio.run(main())
