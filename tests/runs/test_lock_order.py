"""Everything that locks heads, at once, on PostgreSQL: nobody waits in a circle, and nobody waits for longer than a lock may be held.

A few seconds of it; `SOAK_S` asks for more (`make soak`).
"""

import asyncio
import os
import random
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event
from sqlalchemy import text as sql
from sqlalchemy.engine import ExceptionContext

from db import runs
from db.engine import Database
from runs.close import Ending, close_run
from runs.workers.worker import WorkerLimits
from streams.bus import Bus
from tests.rig import Rig, rig
from tests.runs.logs import eventually
from vocabulary.runs import RunStatus, StopReason

SOAK_S = float(os.environ.get("SOAK_S", "3"))
DEADLOCK, LOCK_TIMEOUT = "40P01", "55P03"
TALKS = 8
WORDS = "Tell me more of it, and then some more of that"


@contextmanager
def refusals() -> Generator[list[str]]:
    """The SQLSTATEs of whatever any engine is told meanwhile, also of what is tried again."""
    seen: list[str] = []

    def note(context: ExceptionContext) -> None:
        seen.append(getattr(context.original_exception, "sqlstate", None) or type(context.original_exception).__name__)

    event.listen(Engine, "handle_error", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "handle_error", note)


@pytest.mark.timeout(SOAK_S + 60)
@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_heartbeats_batches_cancels_and_sends_end_in_no_deadlock_and_no_lock_timeout(
    database_url: str, database: Database, bus: Bus
) -> None:
    busy = WorkerLimits(sole=False, lease_s=1, reconcile_s=0.05, prune_s=0.1, delta_retention_s=0)
    another = Database.open(database_url)
    with refusals() as refused:
        async with rig(database, bus=bus, worker_limits=busy) as one, rig(another, worker_limits=busy) as other:
            talks = [(await one.conversation()).id for _ in range(TALKS)]
            ends = asyncio.get_running_loop().time() + SOAK_S
            async with asyncio.TaskGroup() as people:
                for talk in talks:
                    people.create_task(talk_until(ends, one, talk), name=f"one who talks in {talk}")
                    people.create_task(talk_until(ends, other, talk), name=f"another who talks in {talk}")
                cancelled = people.create_task(cancel_until(ends, one, talks), name="one who cancels")
            await eventually(lambda: all_have_ended(database), seconds=40)
            for talk in talks:
                await ends_at_its_head(one, talk)
    await another.close()
    assert cancelled.result() > 0
    assert not {DEADLOCK, LOCK_TIMEOUT} & {*refused}, refused
    assert await deadlocks(database) == 0


async def talk_until(ends: float, parley: Rig, conversation_id: str) -> None:
    """Never so far ahead that the queue only grows."""
    while asyncio.get_running_loop().time() < ends:
        sent = await parley.say(conversation_id, WORDS)
        await parley.say(conversation_id, WORDS)
        await parley.reader.wait_for_end(sent.run, seconds=SOAK_S)


async def cancel_until(ends: float, parley: Rig, conversation_ids: list[str]) -> int:
    """How many."""
    cancelled = 0
    while asyncio.get_running_loop().time() < ends:
        cancelled += await cancel(parley, random.choice(conversation_ids))
    return cancelled


async def cancel(parley: Rig, conversation_id: str) -> bool:
    """Closes the run that is running, behind its worker's back."""
    async with parley.engine.log.transaction() as transaction:
        head = await transaction.lock(conversation_id)
        assert head is not None
        run = None if head.active_run_id is None else await runs.get(transaction.connection, head.active_run_id)
        if run is None:
            return False
        ending = Ending(status=RunStatus.CANCELLED, stop_reason=StopReason.CANCELLED)
        await close_run(parley.engine, transaction, head, run, ending)
        return True


async def all_have_ended(database: Database) -> bool:
    async with database.read() as connection:
        live = "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'RUNNING')"
        return (await connection.execute(sql(live))).scalar_one() == 0


async def ends_at_its_head(parley: Rig, conversation_id: str) -> None:
    """Finished deltas are pruned meanwhile, so their numbers may be missing; no number is there twice."""
    numbers = [event.sequence for event in await parley.stored(conversation_id)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == (await parley.read(conversation_id)).head_sequence


async def deadlocks(database: Database) -> int:
    async with database.read() as connection:
        await connection.execute(sql("SELECT pg_stat_force_next_flush()"))
        return (await connection.execute(sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))).scalar_one()
