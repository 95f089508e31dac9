"""What is asked all the time is found by an index that holds little more than the answer, however much has been said and done before."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event

from db import conversations, events, forks, messages, runs
from db.engine import Connection, Database
from vocabulary.events import DeltaMode

Ask = Callable[[Connection], Awaitable[object]]

SETTINGS = {"sqlite": (), "postgresql": ("SET enable_seqscan = off", "SET enable_bitmapscan = off")}  # the tables are empty
EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}


FIND_LIVE_RUNS: dict[str, Ask] = {
    "what nobody works on": runs.unattended,
    "the live runs of a conversation": lambda connection: runs.live(connection, ["c"]),
    "a conversation": lambda connection: conversations.read(connection, ["c"]),
    "a visible conversation": lambda connection: conversations.by_ids(connection, "t", ["c"]),
}
FIND_OPEN_MESSAGES: dict[str, Ask] = {
    "a replay": lambda connection: events.read(connection, "c", after=0, mode=DeltaMode.COALESCED, limit=500),
    "a replay of a run": lambda connection: events.read(connection, "c", after=0, mode=DeltaMode.COALESCED, limit=500, run_id="r"),
    "what a fork leaves out": lambda connection: forks.unfinished(connection, "c"),
}


async def plan_of(database: Database, ask: Ask) -> str:
    """How the database goes about the one statement that this asks."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        asked.append((statement, parameters))

    async with database.read() as connection:
        name = connection.dialect.name
        for setting in SETTINGS[name]:
            await connection.exec_driver_sql(setting)
        event.listen(Engine, "before_cursor_execute", note)
        try:
            await ask(connection)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        [(statement, parameters)] = asked
        return "\n".join(str(row[-1]) for row in await connection.exec_driver_sql(EXPLAIN[name] + statement, parameters))


@pytest.mark.parametrize("ask", FIND_LIVE_RUNS.values(), ids=FIND_LIVE_RUNS)
async def test_runs_that_have_ended_are_not_visited_to_find_those_that_live(database: Database, ask: Ask) -> None:
    plan = await plan_of(database, ask)
    assert "ix_runs_live" in plan
    assert "uq_runs_idempotency" not in plan
    assert "ix_runs_created" not in plan


@pytest.mark.parametrize("ask", FIND_OPEN_MESSAGES.values(), ids=FIND_OPEN_MESSAGES)
async def test_messages_that_are_finished_are_not_visited_to_find_those_that_are_open(database: Database, ask: Ask) -> None:
    plan = await plan_of(database, ask)
    assert "ix_messages_open" in plan
    assert "CORRELATED LIST" not in plan  # which SQLite would ask again for each delta
    assert "uq_messages_ordinal" not in plan


async def test_the_calls_of_a_request_are_found_by_its_run(database: Database) -> None:
    plan = await plan_of(database, lambda connection: messages.by_ids(connection, "t", ["m"]))
    assert "ix_messages_run" in plan
    assert "uq_messages_ordinal" not in plan


async def test_conversations_are_counted_without_a_look_at_their_heads(database: Database) -> None:
    assert "heads" not in await plan_of(database, lambda connection: conversations.count(connection, "t", conversations.Filter()))
    assert "heads" not in await plan_of(database, lambda connection: conversations.counts(connection, "t", ["a"]))
