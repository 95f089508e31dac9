"""The fence: who holds the lease gets numbers, whoever does not gets nothing, also when it had to wait to find out."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from db import heads
from db.engine import Database
from db.heads import Claim, Granted, Grants, Head
from tests.db.rows import stored_conversation
from vocabulary.conversations import Conversation

DEADLINE_S = 20
SEARCHES = text("SELECT seq_scan + idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'heads'")


async def held_conversation(database: Database) -> Conversation:
    return await stored_conversation(
        database, active_run_id="run-1", fence=3, write_number=5, head_sequence=10, next_ordinal=4, list_version=2
    )


def claim(conversation: Conversation, **fields: Any) -> Claim:
    """What the run that holds it may claim."""
    rightful = Claim(conversation_id=conversation.id, run_id="run-1", fence=3, write_number=5, sequences=4, ordinals=2)
    return replace(rightful, **fields)


async def head_of(database: Database, conversation: Conversation) -> Head:
    async with database.write() as connection:
        head = await heads.lock(connection, conversation.id)
    assert head is not None
    return head


async def granted(database: Database, *claims: Claim, patient: bool = False) -> dict[Claim, Granted]:
    async with database.write() as connection:
        grants = await heads.grant(connection, claims, patient=patient)
    assert grants.skipped == frozenset()
    return grants.granted


async def told(database: Database, *claims: Claim) -> list[Claim]:
    """The same claims, knowing where their heads lie; on SQLite nobody knows."""
    if database.is_sqlite:
        return list(claims)
    async with database.read() as connection:
        rows = await connection.execute(text("SELECT conversation_id, CAST(ctid AS text) AS tid FROM heads"))
        tids = {row.conversation_id: row.tid for row in rows}
    return [replace(one, tid=tids.get(one.conversation_id)) for one in claims]


async def test_who_holds_the_lease_gets_the_next_numbers(database: Database) -> None:
    conversation = await held_conversation(database)
    assert await granted(database, claim(conversation)) == {claim(conversation): Granted(11, 4)}
    head = await head_of(database, conversation)
    assert (head.head_sequence, head.next_ordinal, head.write_number, head.fence, head.list_version) == (14, 6, 6, 3, 2)
    following = claim(conversation, write_number=6, ordinals=0)
    assert await granted(database, following) == {following: Granted(15, 6)}


@pytest.mark.parametrize(
    "wrong",
    [{"fence": 2}, {"fence": 4}, {"run_id": "run-2"}, {"write_number": 4}, {"write_number": 6}, {"conversation_id": "conv-none"}],
    ids=lambda wrong: "-".join(f"{name}-{value}" for name, value in wrong.items()),
)
async def test_who_does_not_gets_nothing_and_changes_nothing(database: Database, wrong: dict[str, Any]) -> None:
    conversation = await held_conversation(database)
    before = await head_of(database, conversation)
    [knowing] = await told(database, claim(conversation))
    for unlawful in (claim(conversation, **wrong), replace(knowing, **wrong)):
        assert await granted(database, unlawful) == {}
    assert await head_of(database, conversation) == before


async def test_nobody_holds_what_was_released(database: Database) -> None:
    conversation = await held_conversation(database)
    async with database.write() as connection:
        await heads.release(connection, [conversation.id])
    assert await granted(database, claim(conversation)) == {}
    head = await head_of(database, conversation)
    assert (head.active_run_id, head.fence, head.list_version) == (None, 4, 3)


async def test_one_who_has_lost_its_lease_does_not_keep_the_others_of_a_batch_from_theirs(database: Database) -> None:
    conversations = [await held_conversation(database) for _ in range(5)]
    claims = [claim(conversation, fence=3 if number != 2 else 2) for number, conversation in enumerate(conversations)]
    assert set(await granted(database, *reversed(claims))) == {one for number, one in enumerate(claims) if number != 2}


UNLAWFUL: dict[str, dict[str, Any]] = {
    "a run that was ended": {"run_id": "run-0", "fence": 1, "write_number": 9},
    "the same run before it was taken again": {"fence": 1},
    "the same lease with a batch that was committed": {"write_number": 4},
}


@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("lawful_first", [True, False])
@pytest.mark.parametrize("unlawful", UNLAWFUL.values(), ids=UNLAWFUL.keys())
async def test_of_several_claims_on_one_head_the_lawful_one_gets_what_it_asked_for(
    database: Database, unlawful: dict[str, Any], lawful_first: bool, patient: bool
) -> None:
    conversation = await held_conversation(database)
    lawful, other = claim(conversation, sequences=1, ordinals=1), claim(conversation, sequences=3, ordinals=2, **unlawful)
    claims = [lawful, other] if lawful_first else [other, lawful]
    assert await granted(database, *claims, patient=patient) == {lawful: Granted(11, 4)}
    head = await head_of(database, conversation)
    assert (head.head_sequence, head.next_ordinal, head.write_number) == (11, 5, 6)


async def test_the_head_says_what_was_committed_last(database: Database) -> None:
    conversation = await held_conversation(database)
    async with database.read() as connection:
        assert await heads.write_numbers(connection, [conversation.id, "conv-none"]) == {conversation.id: ("run-1", 3, 5)}
        assert await heads.positions(connection, [conversation.id, "conv-none"]) == {conversation.id: 10}


# ---- two transactions at once


async def somebody_waits(database: Database) -> None:
    """Until a transaction waits for another's lock. On SQLite the second waits for the one writer's place, before it begins."""
    if database.is_sqlite:
        return
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(DEADLINE_S), database.read() as connection:
        while not (await connection.execute(waiting)).scalar_one():
            pass


async def race(database: Database, conversation: Conversation, change: Callable[[Head], object]) -> dict[Claim, Granted]:
    """What the run is granted that asks while somebody else, under the lock, changes the head."""
    async with database.write() as connection:
        head = await heads.lock(connection, conversation.id)
        assert head is not None
        asking = asyncio.create_task(granted(database, claim(conversation), patient=True))
        await somebody_waits(database)
        assert not asking.done()
        change(head)
        await heads.save(connection, head)
    async with asyncio.timeout(DEADLINE_S):
        return await asking


def raise_fence(head: Head) -> None:
    head.fence += 1


def lower_fence(head: Head) -> None:
    head.fence -= 1


def let_go(head: Head) -> None:
    head.active_run_id = None


def hand_to_another(head: Head) -> None:
    head.active_run_id = "run-2"


def write_once_more(head: Head) -> None:
    head.write_number += 1


@pytest.mark.parametrize("change", [raise_fence, lower_fence, let_go, hand_to_another, write_once_more])
async def test_a_claim_that_waited_for_the_lock_sees_that_its_lease_is_gone(database: Database, change: Callable[[Head], object]) -> None:
    conversation = await held_conversation(database)
    assert await race(database, conversation, change) == {}
    assert (await head_of(database, conversation)).head_sequence == 10


async def test_a_claim_that_waited_for_another_writer_gets_the_numbers_after_its(database: Database) -> None:
    conversation = await held_conversation(database)

    def take(head: Head) -> None:
        head.take_sequence()
        head.take_ordinal()

    assert await race(database, conversation, take) == {claim(conversation): Granted(12, 5)}
    assert (await head_of(database, conversation)).head_sequence == 15


on_postgresql = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)


@on_postgresql
@pytest.mark.parametrize("knowing", [False, True], ids=["by key", "where they lie"])
async def test_what_another_has_locked_is_skipped_and_what_is_lost_is_told_apart_from_it(database: Database, knowing: bool) -> None:
    """Whoever has locked it may be about to change the lease; what is committed is all that is known."""
    locked, lost, free = sorted([await held_conversation(database) for _ in range(3)], key=lambda c: c.id)
    claims = [claim(locked), claim(locked, fence=2), claim(lost, fence=2), claim(free)]
    if knowing:
        claims = await told(database, *claims)
    async with database.write() as holder:
        head = await heads.lock(holder, locked.id)
        assert head is not None
        head.fence += 1
        await heads.save(holder, head)
        async with database.write() as connection:
            grants = await heads.grant(connection, claims)
        assert grants == Grants({claims[3]: Granted(11, 4)}, frozenset({claims[0]}))
    assert await granted(database, claims[0]) == {}


# ---- where heads lie


async def changed_by_another(database: Database, conversation: Conversation) -> None:
    """As by a send: the lease stays, a number is taken, and the head lies elsewhere."""
    async with database.write() as connection:
        head = await heads.lock(connection, conversation.id)
        assert head is not None
        head.take_sequence()
        await heads.save(connection, head)


@on_postgresql
async def test_who_was_granted_a_head_knows_where_it_lies(database: Database) -> None:
    conversations = [await held_conversation(database) for _ in range(3)]
    answers = await granted(database, *(claim(conversation) for conversation in conversations))
    again = [replace(one, write_number=6, tid=answer.tid) for one, answer in answers.items()]
    assert again == await told(database, *again)


@on_postgresql
async def test_a_head_that_lies_where_it_is_said_to_is_not_looked_up_by_its_key(database: Database) -> None:
    conversations = [await held_conversation(database) for _ in range(3)]
    unknowing = [claim(conversation) for conversation in conversations]
    assert await look_ups(database, unknowing) == 3
    knowing = [replace(one, write_number=6) for one in await told(database, *unknowing)]
    assert await look_ups(database, knowing) == 0


@on_postgresql
@pytest.mark.parametrize("many", [2, 8, 20])
async def test_nor_is_it_in_a_table_that_was_small_when_the_statement_was_planned(database: Database, many: int) -> None:
    conversations = [await held_conversation(database) for _ in range(many)]
    async with database.read() as connection:
        await connection.execute(text("VACUUM ANALYZE heads"))
    for number in range(8):  # with the sixth time, a plan is kept
        claims = await told(database, *(claim(conversation, write_number=5 + number) for conversation in conversations))
        assert await look_ups(database, claims) == 0


async def look_ups(database: Database, claims: Sequence[Claim]) -> int:
    """How often the table or its index is searched to grant them all."""
    async with database.write() as connection:
        before = (await connection.execute(SEARCHES)).scalar_one()
        grants = await heads.grant(connection, claims)
        assert len(grants.granted) == len(claims)
        return (await connection.execute(SEARCHES)).scalar_one() - before


@on_postgresql
async def test_a_head_that_another_has_changed_meanwhile_is_granted_all_the_same(database: Database) -> None:
    changed, same = [await held_conversation(database) for _ in range(2)]
    claims = await told(database, claim(changed), claim(same))
    await changed_by_another(database, changed)
    assert await granted(database, *claims) == {claims[0]: Granted(12, 4), claims[1]: Granted(11, 4)}


@on_postgresql
async def test_where_another_head_lies_by_now_the_claim_is_granted_its_own_and_the_other_is_left_alone(database: Database) -> None:
    """Both leases look the same, so that only the key tells them apart."""
    ours = await held_conversation(database)
    await changed_by_another(database, ours)  # where a row was made, a signpost stays for ever
    [claim_of_ours] = await told(database, claim(ours))
    await changed_by_another(database, ours)
    another = await one_that_lies(database, claim_of_ours.tid)
    before = await head_of(database, another)
    assert await granted(database, claim_of_ours) == {claim_of_ours: Granted(13, 4)}
    assert await head_of(database, another) == before


async def one_that_lies(database: Database, tid: str | None) -> Conversation:
    """A new conversation, with its head in this place, which another's has left."""
    for _ in range(20):
        async with database.read() as connection:
            await connection.execute(text("VACUUM heads"))
        another = await held_conversation(database)
        [known] = await told(database, claim(another))
        if known.tid == tid:
            return another
    raise AssertionError("nothing ever came to lie there")


@on_postgresql
@pytest.mark.parametrize("tid", ["(0,0)", "(0,200)", "(4000000,1)"])
async def test_a_claim_that_is_sent_where_nothing_lies_is_granted_its_head(database: Database, tid: str) -> None:
    conversation = await held_conversation(database)
    misled = claim(conversation, tid=tid)
    assert await granted(database, misled) == {misled: Granted(11, 4)}


@on_postgresql
async def test_beside_an_old_snapshot_most_versions_of_a_head_need_no_entry_in_the_index(database: Database, database_url: str) -> None:
    conversations = [await held_conversation(database) for _ in range(30)]
    dumped = Database.open(database_url)
    async with dumped.write() as dump:
        await dump.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await dump.execute(text("SELECT count(*) FROM heads"))
        for number in range(40):
            await granted(database, *(claim(conversation, write_number=5 + number) for conversation in conversations))
        async with database.write() as connection:
            await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        async with database.write() as connection:
            found = await connection.execute(text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'heads'"))
            versions, without_entry = found.one()
    await dumped.close()
    assert versions == 30 * 40
    assert without_entry > 0.8 * versions
