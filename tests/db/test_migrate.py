"""Migrations: from nothing to the tables that the code speaks of, once; and never from a version that is newer."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, bindparam, inspect, text

from cluster.postgres import fresh_database
from db import agents, conversations
from db.engine import Database, DatabaseUnusable, PostgresLimits
from db.migrate import LOCK, DatabaseTooNew, DatabaseTooOld, require_current, upgrade
from db.procrastinate import bring_up
from db.tables import metadata
from db.types import Timestamp
from tests.db.rows import NOON, TENANT, stored_conversation
from vocabulary.compaction import CompactionSettings

NOT_OURS = ("alembic", "procrastinate", "ix_conversations_summary")
"""Others' tables, and an index that is only there where its extension can be had."""


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
        # A table's own text tells columns that were added later from those it was made with; its columns do not.
        query = """
            SELECT t.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM pragma_table_list t, pragma_table_xinfo(t.name) c
            UNION ALL SELECT t.name, f."from", f."table", f."to", f.on_delete, ''
                FROM pragma_table_list t, pragma_foreign_key_list(t.name) f
            UNION ALL SELECT name, wr, strict, '', '', '' FROM pragma_table_list
            UNION ALL SELECT tbl_name, name, sql, '', '', '' FROM sqlite_master WHERE type = 'index'
        """
    else:
        query = """
            SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default FROM information_schema.columns
            WHERE table_schema = 'public' AND table_name <> 'alembic_version'
            UNION ALL SELECT tablename, indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT relname, array_to_string(reloptions, ','), '', '', '', '' FROM pg_class WHERE reloptions IS NOT NULL
            UNION ALL SELECT conname, pg_get_constraintdef(oid), '', '', '', '' FROM pg_constraint WHERE contype IN ('p', 'f')
                AND connamespace = 'public'::regnamespace
        """
    found = [tuple(_in_any_order(str(value)) for value in row) for row in connection.execute(text(query))]
    return sorted((row for row in found if not any(name in str(row) for name in NOT_OURS)), key=str)


def _in_any_order(definition: str) -> str:
    """SQLite puts a column that is added later behind the constraints."""
    if not definition.startswith("CREATE TABLE"):
        return definition
    opening, _, parts = definition.partition("(")
    return opening + ",".join(sorted(part.strip() for part in parts.removesuffix(")").split(",")))


def differences(connection: Connection) -> list[Any]:
    def ours(name: str | None, _kind: str, _parents: object) -> bool:
        return not any(other in (name or "") for other in NOT_OURS)

    opts = {"compare_server_default": True, "include_name": ours}
    return compare_metadata(MigrationContext.configure(connection, opts=opts), metadata)


@pytest.mark.filterwarnings("ignore:.*expression-based index")  # the next test sees them
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


async def test_agents_from_before_compaction_had_settings_get_the_defaults(empty: Database) -> None:
    await upgrade(empty, to="0003")
    async with empty.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO agents (id, tenant, name, instructions, model, model_settings, tools, created_at, updated_at) "
                "VALUES ('agent-old', :tenant, 'old', '', 'demo/echo', '{}', '[]', :now, :now)"
            ).bindparams(bindparam("now", NOON, Timestamp)),
            {"tenant": TENANT},
        )
    await upgrade(empty)
    async with empty.read() as connection:
        [agent] = await agents.by_ids(connection, TENANT, ["agent-old"])
    assert agent.compaction_settings == CompactionSettings()


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


async def test_who_shares_a_database_goes_on_only_when_its_tables_are_of_the_same_version(empty: Database) -> None:
    with pytest.raises(DatabaseTooOld, match="has no tables; run `python -m db upgrade` first"):
        await require_current(empty)
    await upgrade(empty)
    await require_current(empty)
    for revision, refusal in (("0001", DatabaseTooOld), ("9999", DatabaseTooNew)):
        async with empty.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        with pytest.raises(refusal, match=revision) as refused:
            await require_current(empty)
        assert "\n" not in str(refused.value)


# ---- on PostgreSQL only


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_an_upgrade_waits_for_another_one_longer_than_for_any_other_lock(empty: Database) -> None:
    impatient = Database.open(empty.url.render_as_string(hide_password=False), postgres=PostgresLimits(lock_s=0.01))
    async with empty.write() as other, empty.read() as watching:
        await other.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        upgrading = asyncio.create_task(upgrade(impatient))
        async with asyncio.timeout(20):
            while not (await watching.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one():
                pass
    await upgrading
    await require_current(impatient)
    await impatient.close()


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_summaries_have_their_trigram_index(database: Database) -> None:
    query = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_conversations_summary_folded'"
    async with database.read() as connection:
        assert "gin_trgm_ops" in (await connection.execute(text(query))).scalar_one()


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_without_the_extension_the_upgrade_goes_on_and_says_what_is_missing(
    empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may not create extensions: a role that owns the schema and nothing else."""
    async with empty.write() as connection:
        for statement in ("CREATE ROLE plain LOGIN PASSWORD 'plain'", "GRANT ALL ON SCHEMA public TO plain"):
            await connection.execute(text(statement))
    database = Database.open(empty.url.set(username="plain", password="plain").render_as_string(hide_password=False))
    try:
        await upgrade(database)
        await require_current(database)
    finally:
        await database.close()
        async with empty.write() as connection:
            for statement in ("DROP OWNED BY plain", "DROP ROLE plain"):
                await connection.execute(text(statement))
    assert "have an administrator run: CREATE EXTENSION pg_trgm" in capsys.readouterr().err


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_an_older_schema_of_procrastinate_is_brought_up_step_by_step(empty: Database) -> None:
    """As the next version of it will be: the schema is there, and lacks what its last migration adds."""
    last = "03.04.00_50_post_add_retry_failed_job_procedure"
    async with empty.write() as connection:
        await connection.run_sync(bring_up, through=last)
        await connection.execute(text("DROP TRIGGER procrastinate_trigger_status_events_update_v1 ON procrastinate_jobs"))
        await connection.execute(text("COMMENT ON TABLE procrastinate_jobs IS 'parley: procrastinate through 03.04.00_01_pre_x'"))
        await connection.run_sync(bring_up, through=last)
        mark = (await connection.execute(text("SELECT obj_description('procrastinate_jobs'::regclass)"))).scalar_one()
        triggers = (await connection.execute(text("SELECT tgname FROM pg_trigger"))).scalars()
        assert "procrastinate_trigger_status_events_update_v1" in set(triggers)
    assert mark.endswith(last)


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_tables_of_another_program_that_uses_procrastinate_are_left_alone(empty: Database) -> None:
    async with empty.write() as connection:
        await connection.execute(text("CREATE TABLE procrastinate_jobs (id bigint)"))
    with pytest.raises(DatabaseUnusable, match="tables of Procrastinate that this program did not make"):
        await upgrade(empty)


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_a_server_that_says_nothing_is_told_with_a_reason(postgres_to_copy: object) -> None:  # noqa: ARG001
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+asyncpg://me:hunter2@127.0.0.1:{silent.getsockname()[1]}/none"
        database = Database.open(url, postgres=PostgresLimits(connect_s=0.1))
        with pytest.raises(DatabaseUnusable, match=r"^DATABASE_URL: postgresql\+asyncpg://me:\*\*\*@.* cannot be used: TimeoutError"):
            await require_current(database)
        await database.close()
