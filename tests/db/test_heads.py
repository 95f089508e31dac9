"""The fence: who holds the lease gets numbers, whoever does not gets nothing, also when it had to wait to find out."""

import asyncio
from collections.abc import Callable
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


async def granted(database: Database, *claims: Claim, patient: bool = False) -> dict[str, Granted]:
    async with database.write() as connection:
        grants = await heads.grant(connection, claims, patient=patient)
    assert grants.skipped == frozenset()
    return grants.granted


async def test_who_holds_the_lease_gets_the_next_numbers(database: Database) -> None:
    conversation = await held_conversation(database)
    assert await granted(database, claim(conversation)) == {conversation.id: Granted(11, 4)}
    head = await head_of(database, conversation)
    assert (head.head_sequence, head.next_ordinal, head.write_number, head.fence, head.list_version) == (14, 6, 6, 3, 2)
    assert await granted(database, claim(conversation, write_number=6, ordinals=0)) == {conversation.id: Granted(15, 6)}


@pytest.mark.parametrize(
    "wrong",
    [{"fence": 2}, {"fence": 4}, {"run_id": "run-2"}, {"write_number": 4}, {"write_number": 6}, {"conversation_id": "conv-none"}],
    ids=lambda wrong: "-".join(f"{name}-{value}" for name, value in wrong.items()),
)
async def test_who_does_not_gets_nothing_and_changes_nothing(database: Database, wrong: dict[str, Any]) -> None:
    conversation = await held_conversation(database)
    before = await head_of(database, conversation)
    assert await granted(database, claim(conversation, **wrong)) == {}
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
    assert set(await granted(database, *reversed(claims))) == {c.id for number, c in enumerate(conversations) if number != 2}


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


async def race(database: Database, conversation: Conversation, change: Callable[[Head], object]) -> dict[str, Granted]:
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

    assert await race(database, conversation, take) == {conversation.id: Granted(12, 5)}
    assert (await head_of(database, conversation)).head_sequence == 15


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_what_another_has_locked_is_skipped_and_what_is_lost_is_told_apart_from_it(database: Database) -> None:
    """Whoever has locked it may be about to change the lease; what is committed is all that is known."""
    locked, lost, free = sorted([await held_conversation(database) for _ in range(3)], key=lambda c: c.id)
    claims = [claim(locked), claim(lost, fence=2), claim(free)]
    async with database.write() as holder:
        head = await heads.lock(holder, locked.id)
        assert head is not None
        head.fence += 1
        await heads.save(holder, head)
        async with database.write() as connection:
            grants = await heads.grant(connection, claims)
        assert grants == Grants({free.id: Granted(11, 4)}, frozenset({locked.id}))
    assert await granted(database, claim(locked)) == {}
