"""After a restore: whoever stood before the end of the gap is told that history was lost, and no number is given twice."""

import asyncio
import subprocess
import sys
from itertools import repeat
from pathlib import Path

import pytest

from db import events, heads
from db.__main__ import rewound
from db.engine import Database, DatabaseUnusable
from db.heads import Claim, Grants
from db.migrate import DatabaseTooOld
from db.rewound import GAP, raise_heads
from runs.workers.worker import WorkerLimits
from tests.db.rows import stored_conversation
from tests.rig import Rig, collect, rig, utc_now
from tests.runs.doubt import Doubtful, Fate
from tests.runs.logs import said, until
from tests.runs.scripted import Models, Scripted, text
from vocabulary.events import CaughtUp, DeltaMode, Item, ResetReason, StreamReset
from vocabulary.runs import RunStatus

ROOT = Path(__file__).parent.parent.parent


def caught_up(item: Item) -> bool:
    return isinstance(item.payload, CaughtUp)


async def head_of(database: Database, conversation_id: str) -> int:
    async with database.read() as connection:
        return (await heads.positions(connection, [conversation_id]))[conversation_id]


async def replay(parley: Rig, conversation_id: str, after: int, mode: DeltaMode) -> list[Item]:
    return await collect(parley.reader.follow(conversation_id, after=after, mode=mode), caught_up)


@pytest.mark.parametrize("mode", DeltaMode)
async def test_who_reads_across_the_gap_is_told_wherever_it_stood(database: Database, mode: DeltaMode) -> None:
    async with rig(database) as parley:
        conversation = await parley.conversation()
        await parley.ended((await parley.say(conversation.id, "Hi")).run)
        old = await head_of(database, conversation.id)
    await rewound(database)
    async with rig(database) as parley:
        new = await head_of(database, conversation.id)
        assert new == old + GAP
        for after in (0, 1, old, old + 1, old + 77, new - 1):
            items = await replay(parley, conversation.id, after, mode)
            reset, last = items[-2:]
            assert (reset.payload, reset.sequence) == (StreamReset(ResetReason.HISTORY_LOST, new), new)
            assert (last.payload, last.sequence) == (CaughtUp(new), new)
            assert [item.previous_sequence for item in items[1:]] == [item.sequence for item in items[:-1]]
            assert all(item.sequence <= old for item in items[:-2])
        assert [item.payload for item in await replay(parley, conversation.id, new, mode)] == [CaughtUp(new)]
        await parley.ended((await parley.say(conversation.id, "And now?")).run)
        assert (await replay(parley, conversation.id, new, DeltaMode.ALL))[0].sequence == new + 1


async def test_who_follows_a_run_is_told_too_and_sees_its_end(database: Database) -> None:
    """The run was under way when the copy was made. Whoever had it has lost it: its fence is raised."""
    limits = WorkerLimits(sole=database.is_sqlite, lease_s=1, reconcile_s=0.05)
    model = Scripted([*text("Half")[:-1], asyncio.Event()])
    async with rig(database, models=Models(model), worker_limits=limits) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
    await rewound(database)
    async with rig(database, models=Models(Scripted()), worker_limits=limits) as parley:
        assert (await parley.ended(sent.run)).status is RunStatus.COMPLETED
        items = await collect(
            parley.reader.follow(conversation.id, after=0, mode=DeltaMode.COALESCED, run=sent.run),
            lambda item: isinstance(item.payload, StreamReset),
        )
        assert items[-1].payload == StreamReset(ResetReason.HISTORY_LOST, items[-1].sequence)


async def test_a_batch_is_bounded_and_the_next_goes_on_after_it(database: Database) -> None:
    ids = sorted([(await stored_conversation(database, head_sequence=3)).id for _ in range(5)])
    done = ""
    for expected in (ids[1], ids[3], ids[4], None):
        async with database.write() as connection:
            last = await raise_heads(connection, after=done, limit=2, now=utc_now())
        assert last == expected
        done = last or done
    assert [await head_of(database, id_) for id_ in ids] == [3 + GAP] * 5


async def test_a_call_that_was_interrupted_is_made_again_from_the_start(database: Database) -> None:
    """What was raised before is raised once more: it tells the same, and no number is handed out twice."""
    ids = sorted([(await stored_conversation(database, head_sequence=3)).id for _ in range(2)])
    async with database.write() as connection:
        assert await raise_heads(connection, after="", limit=1, now=utc_now()) == ids[0]
    await rewound(database)
    assert [await head_of(database, id_) for id_ in ids] == [3 + 2 * GAP, 3 + GAP]
    async with database.read() as connection:
        page = await events.read(connection, ids[0], after=4, mode=DeltaMode.COALESCED, limit=10)
    assert page is not None
    assert [event.sequence for event in page.events] == [3 + GAP, 3 + 2 * GAP]


@pytest.mark.parametrize("taken_meanwhile", range(4))
async def test_who_has_lived_through_the_loss_writes_nothing_more(database: Database, taken_meanwhile: int) -> None:
    """Nor who has taken the run in the time that is lost, and was given a fence that the copy knows nothing of."""
    conversation = await stored_conversation(database, active_run_id="run-1", fence=3, write_number=5, head_sequence=10)
    fence = 3 + taken_meanwhile
    claim = Claim(conversation_id=conversation.id, run_id="run-1", fence=fence, write_number=5, sequences=1, ordinals=0)
    await rewound(database)
    async with database.write() as connection:
        assert await heads.grant(connection, [claim]) == Grants({}, frozenset())


async def test_a_database_without_our_tables_is_refused(tmp_path: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    with pytest.raises(DatabaseTooOld):
        await rewound(database)
    await database.close()


async def test_a_database_that_goes_away_in_the_middle_is_told_in_one_line(database_url: str) -> None:
    database = Doubtful.open(database_url)
    await stored_conversation(database)
    database.whose, database.fates = "", repeat(Fate.LOST)
    with pytest.raises(DatabaseUnusable) as refusal:
        await rewound(database)
    assert len(str(refusal.value).splitlines()) == 1
    await database.close()


def test_it_is_a_command(tmp_path: Path) -> None:
    environment = {"DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/parley.db"}
    for command in ("upgrade", "rewound"):
        subprocess.run([sys.executable, "-m", "db", command], cwd=ROOT, env=environment, check=True, timeout=60)


async def test_the_commands_need_nothing_but_the_database(database_url: str) -> None:
    """No bus beside PostgreSQL, either: nobody hears of what they do."""
    for command in ("upgrade", "rewound"):
        program = [sys.executable, "-m", "db", command]
        done = await asyncio.to_thread(
            subprocess.run, program, cwd=ROOT, env={"DATABASE_URL": database_url}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
