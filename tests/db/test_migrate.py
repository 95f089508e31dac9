"""Migrations: from nothing to the tables that the code speaks of, once; and never from a version that is newer."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from db import conversations
from db.engine import Database, DatabaseUnusable
from db.migrate import DatabaseTooNew, upgrade
from db.tables import metadata
from tests.db.rows import stored_conversation
from tests.servers import fresh_database


@pytest_asyncio.fixture
async def empty(postgres_to_copy: tuple[str, str] | None, tmp_path: Path) -> AsyncGenerator[Database]:
    """A database that nobody has migrated."""
    if postgres_to_copy is None:
        database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
        yield database
        await database.close()
        return
    async with fresh_database(postgres_to_copy[0]) as url:
        database = Database.open(url)
        yield database
        await database.close()


def catalogue(connection: Connection) -> list[tuple[Any, ...]]:
    """What the database itself says of its tables: also what no comparison of metadata sees, such as collations and partial indexes."""
    if connection.dialect.name == "sqlite":
        query = "SELECT type, name, replace(replace(sql, '\n', ''), '\t', '') FROM sqlite_master WHERE name NOT LIKE 'alembic%'"
    else:
        query = """
            SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default FROM information_schema.columns
            WHERE table_schema = 'public' AND table_name <> 'alembic_version'
            UNION ALL SELECT tablename, indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT relname, array_to_string(reloptions, ','), '', '', '', '' FROM pg_class WHERE reloptions IS NOT NULL
            UNION ALL SELECT conname, pg_get_constraintdef(oid), '', '', '', '' FROM pg_constraint WHERE contype IN ('p', 'f')
                AND connamespace = 'public'::regnamespace
        """
    found = [tuple(row) for row in connection.execute(text(query))]
    return sorted((row for row in found if "alembic" not in str(row)), key=str)


def differences(connection: Connection) -> list[Any]:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_server_default": True}), metadata)


async def test_the_migrated_tables_are_those_that_the_code_speaks_of(database: Database) -> None:
    async with database.write() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_migrated_tables_are_the_same_to_the_database_as_if_made_from_the_code(empty: Database, database: Database) -> None:
    async with empty.write() as connection:
        await connection.run_sync(metadata.create_all)
        made = await connection.run_sync(catalogue)
    async with database.write() as connection:
        assert await connection.run_sync(catalogue) == made


async def test_to_upgrade_again_changes_nothing(empty: Database) -> None:
    await upgrade(empty)
    conversation = await stored_conversation(empty)
    async with empty.write() as connection:
        before = await connection.run_sync(catalogue)
    await upgrade(empty)
    async with empty.write() as connection:
        assert await connection.run_sync(catalogue) == before
        assert list(await conversations.read(connection, [conversation.id])) == [conversation.id]


async def test_upgrades_at_once_do_it_once(empty: Database) -> None:
    await asyncio.gather(*(upgrade(empty) for _ in range(3)))
    async with empty.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM alembic_version"))).scalar_one() == 1


async def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew) as refused:
        await upgrade(database)
    assert "9999" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_an_upgrade_that_fails_leaves_nothing_behind(empty: Database) -> None:
    async with empty.write() as connection:
        await connection.execute(text("CREATE TABLE steps (id INTEGER)"))
    with pytest.raises(DatabaseUnusable, match="steps"):
        await upgrade(empty)
    async with empty.write() as connection:
        assert set(await connection.run_sync(lambda c: inspect(c).get_table_names())) == {"steps"}
