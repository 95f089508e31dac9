"""Opening a database: one process per SQLite file, one line when it cannot be; and what a refusal is."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, PendingRollbackError

from db import tables
from db.engine import Database, DatabaseInUse, DatabaseUnusable, is_refusal
from tests.db.rows import NOON, a_message, stored_conversation
from vocabulary.conversations import Conversation

ROOT = Path(__file__).parents[2]


class GivenUp(Exception):
    pass


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncGenerator[Database]:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/parley.db")
    yield database
    await database.close()


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


# ---- one process per file


def test_a_second_opening_of_a_file_is_refused_with_one_line(opened: Database) -> None:
    with pytest.raises(DatabaseInUse) as refused:
        Database.open(url_of(opened))
    assert str(opened.url.database) in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_what_was_closed_can_be_opened_again(opened: Database) -> None:
    await opened.close()
    await Database.open(url_of(opened)).close()


def _upgrade_elsewhere(url: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.defpath, "DATABASE_URL": url}
    return subprocess.run(
        [sys.executable, "-m", "db", "upgrade"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False
    )


def test_a_second_process_is_told_so_in_one_line(opened: Database) -> None:
    second = _upgrade_elsewhere(url_of(opened))
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.count("\n") == 1
    assert "in use by another process" in second.stderr


def test_a_process_that_comes_alone_migrates_the_file(tmp_path: Path) -> None:
    first = _upgrade_elsewhere(f"sqlite+aiosqlite:///{tmp_path}/new.db")
    assert (first.returncode, first.stderr) == (0, "")
    assert (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite+aiosqlite://", "needs a file"),
        ("sqlite+aiosqlite:///:memory:", "needs a file"),
        ("sqlite+aiosqlite:////nowhere/at/all/parley.db", "does not exist"),
        ("mysql+aiomysql://localhost/parley", "no support for mysql"),
    ],
)
def test_what_cannot_be_opened_says_why_in_one_line(url: str, reason: str) -> None:
    with pytest.raises(DatabaseUnusable, match=reason) as refused:
        Database.open(url)
    assert "\n" not in str(refused.value)


# ---- reading and writing


async def give_up(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(insert(tables.workers).values(id="worker-1", started_at=NOON, lease_expires_at=NOON))
        raise GivenUp


async def test_what_fails_in_the_middle_is_not_there(database: Database) -> None:
    with pytest.raises(GivenUp):
        await give_up(database)
    async with database.read() as connection:
        assert (await connection.execute(select(tables.workers))).all() == []


async def test_a_reader_sees_what_is_committed_and_holds_up_no_writer(database: Database) -> None:
    async with database.read() as reading:
        await reading.execute(select(tables.workers))
        async with database.write() as writing:
            await writing.execute(insert(tables.workers).values(id="worker-1", started_at=NOON, lease_expires_at=NOON))
            assert (await reading.execute(select(tables.workers))).all() == []
        assert len((await reading.execute(select(tables.workers))).all()) == 1


async def test_a_reader_of_a_file_cannot_write(opened: Database) -> None:
    async with opened.write() as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER)"))
    async with opened.read() as connection:
        with pytest.raises(DBAPIError, match="readonly"):
            await connection.execute(text("INSERT INTO things VALUES (1)"))


@pytest.mark.parametrize(("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)])
async def test_the_writer_of_a_file_is_as_safe_as_it_can_be(opened: Database, pragma: str, value: object) -> None:
    async with opened.write() as connection:
        assert (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one() == value


# ---- refusals


async def store_message(database: Database, conversation: Conversation, changes: Mapping[str, object]) -> None:
    async with database.write() as connection:
        await connection.execute(insert(tables.messages).values({**_columns(conversation.id), **changes}))


def _columns(conversation_id: str) -> dict[str, object]:
    message = a_message(conversation_id)
    values = {column.name: getattr(message, column.name, None) for column in tables.messages.c}
    return {**values, "started_sequence": 1}


@pytest.mark.parametrize(
    "bad",
    [{"text": "half of \ud83d"}, {"status": None}, {"conversation_id": "conv-none"}],
    ids=["half-a-character", "nothing-where-something-must-be", "a-reference-to-nothing"],
)
async def test_data_that_will_never_be_taken_is_a_refusal(database: Database, bad: dict[str, object]) -> None:
    conversation = await stored_conversation(database)
    with pytest.raises((DBAPIError, UnicodeEncodeError)) as failed:
        await store_message(database, conversation, bad)
    assert is_refusal(failed.value)


async def test_a_row_that_is_there_already_is_a_refusal(database: Database) -> None:
    conversation = await stored_conversation(database)
    await store_message(database, conversation, {})
    with pytest.raises(DBAPIError) as failed:
        await store_message(database, conversation, {})
    assert is_refusal(failed.value)


def test_a_connection_that_is_cut_is_not_a_refusal() -> None:
    assert not is_refusal(ConnectionResetError())
    assert not is_refusal(TimeoutError())


async def test_a_transaction_that_was_torn_off_keeps_nobody_waiting(database: Database) -> None:
    """As a cancellation tears it off: the connection is thrown away while a half-read cursor of it lives on in somebody's traceback."""
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE torn (x INTEGER)"))
    half_read: list[object] = []
    async with asyncio.timeout(20):
        with suppress(InvalidRequestError, PendingRollbackError):
            async with database.write() as connection:
                await connection.execute(text("INSERT INTO torn VALUES (1), (2)"))
                half_read.append(cursor := await connection.stream(text("SELECT x FROM torn")))
                await cursor.fetchone()
                await connection.invalidate()
        async with database.write() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM torn"))).scalar_one() == 0
            await connection.execute(text("INSERT INTO torn VALUES (3)"))
    assert half_read


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_no_statement_is_compiled_before_it_is_run_however_dear_it_looks(database: Database) -> None:
    for connect in (database.read, database.write, database.write_apart):
        async with connect() as connection:
            await connection.execute(text("SET jit_above_cost = 0"))
            plan = (await connection.execute(text("EXPLAIN (ANALYZE) SELECT count(*) FROM messages"))).scalars().all()
            assert [line for line in plan if line.startswith("JIT")] == []
