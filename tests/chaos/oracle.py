"""What must be true once things have been mended: asked of the database, and of what each person was told meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import text

from db import runs
from db.engine import Database
from tests.chaos.people import Person
from tests.rig import Rig
from tests.runs.logs import checked
from vocabulary.events import MessageCompleted
from vocabulary.messages import MessageType

LOOK_S = 0.05


async def attended(database: Database, *, within_s: float) -> float:
    """Waits until every run has ended or is in the hands of a worker that lives; answers how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while await _unattended(database):  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(LOOK_S)
    return time.monotonic() - started


async def _unattended(database: Database) -> bool:
    async with database.read() as connection:
        return bool(await runs.unattended(connection))


async def all_is_well(rig: Rig, people: Sequence[Person]) -> None:
    """For conversations at rest."""
    await _nothing_is_left_open(rig.database)
    for person in people:
        await checked(rig, person.conversation_id)  # no number is missing, each run ends once, nobody writes for a run that has ended
        await _was_told_everything(person)
        await _said_everything_once(rig, person)


async def _nothing_is_left_open(database: Database) -> None:
    async with database.read() as connection:
        open_messages = await connection.execute(text("SELECT count(*) FROM messages WHERE status IN ('IN_PROGRESS', 'QUEUED')"))
        live_runs = await connection.execute(text("SELECT count(*) FROM runs WHERE status IN ('RUNNING', 'QUEUED')"))
        held = await connection.execute(text("SELECT count(*) FROM heads WHERE active_run_id IS NOT NULL"))
    assert (open_messages.scalar_one(), live_runs.scalar_one(), held.scalar_one()) == (0, 0, 0)


async def _was_told_everything(person: Person) -> None:
    """Its items joined without a gap (`Transcript.take`); here: up to the head, and they add up to what a newcomer is told."""
    snapshot = await person.replicas[-1].snapshot(person.conversation_id)
    assert person.transcript.position == snapshot.position
    assert person.transcript.messages == snapshot.messages
    assert person.transcript.runs == snapshot.runs


async def _said_everything_once(rig: Rig, person: Person) -> None:
    events = await rig.stored(person.conversation_id)
    heard = [e.payload.message for e in events if isinstance(e.payload, MessageCompleted) and e.payload.message.type is MessageType.USER]
    assert Counter(message.text for message in heard) == Counter(person.said)
    assert {message.text: message.run_id for message in heard} == person.acknowledged
