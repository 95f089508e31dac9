"""What of Procrastinate we call ourselves is there, as the pinned version has it."""

from importlib.metadata import version

import pytest
from sqlalchemy import URL, make_url, text

from db import jobs
from db.address import check_database_address, libpq_arguments
from db.engine import Database

pytestmark = pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)


async def test_the_function_and_its_type_are_those_that_we_call(database: Database) -> None:
    signature = """
        SELECT pg_get_function_identity_arguments(oid), pg_get_function_result(oid) FROM pg_proc
        WHERE proname = 'procrastinate_defer_jobs_v1'
    """
    fields = """
        SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = 'procrastinate_job_to_defer_v1'::regclass ORDER BY attnum
    """
    async with database.read() as connection:
        assert [tuple(row) for row in await connection.execute(text(signature))] == [("jobs procrastinate_job_to_defer_v1[]", "bigint[]")]
        assert [tuple(row) for row in await connection.execute(text(fields))] == [
            ("queue_name", "character varying"),
            ("task_name", "character varying"),
            ("priority", "integer"),
            ("lock", "text"),
            ("queueing_lock", "text"),
            ("args", "jsonb"),
            ("scheduled_at", "timestamp with time zone"),
        ]


def test_the_version_is_the_one_that_this_was_written_for(postgres_to_copy: object) -> None:  # noqa: ARG001
    """Raising it: docs/decisions/0007-jobs.md."""
    assert version("procrastinate") == "3.10.0"


async def test_only_jobs_of_workers_that_are_gone_are_removed(database: Database) -> None:
    async with database.write() as connection:
        for conversation_id in ("conv-waits", "conv-runs", "conv-silent", "conv-gone"):
            await jobs.defer(connection, conversation_id)
        for statement in (
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now()), (now() - interval '1 hour')",
            "UPDATE procrastinate_jobs SET status = 'doing' WHERE args->>'conversation_id' <> 'conv-waits'",
            "UPDATE procrastinate_jobs SET worker_id = 1 WHERE args->>'conversation_id' = 'conv-runs'",
            "UPDATE procrastinate_jobs SET worker_id = 2 WHERE args->>'conversation_id' = 'conv-silent'",
        ):
            await connection.execute(text(statement))
        assert await jobs.remove_abandoned(connection, silent_s=120, limit=1) == 1
        assert await jobs.remove_abandoned(connection, silent_s=120, limit=10) == 1
        left = await connection.execute(text("SELECT args->>'conversation_id' FROM procrastinate_jobs ORDER BY id"))
        assert list(left.scalars()) == ["conv-waits", "conv-runs"]


def test_the_other_driver_gets_the_same_address_in_its_own_words(postgres_to_copy: object) -> None:  # noqa: ARG001
    url = make_url("postgresql+asyncpg://me:p%40ss@db:5433/parley?ssl=require&prepared_statement_cache_size=0")
    assert libpq_arguments(url) == {
        "host": "db", "port": "5433", "user": "me", "password": "p@ss", "dbname": "parley", "sslmode": "require"
    }  # fmt: skip


@pytest.mark.parametrize("option", ["", "prepared_statement_cache_size=0", "ssl=prefer&target_session_attrs=read-write", "krbsrvname=x"])
async def test_both_drivers_find_the_database_by_whatever_address_is_taken(option: str, database_url: str) -> None:
    url = make_url(f"{database_url}?{option}")
    await both_find(url)
    many = f"host={url.host}:1&host={url.host}:{url.port}"
    await both_find(make_url(f"{url.set(host=None, port=None, query={}).render_as_string(hide_password=False)}?{many}&{option}"))


async def both_find(url: URL) -> None:
    check_database_address(url.render_as_string(hide_password=False))
    database = Database.open(url.render_as_string(hide_password=False))
    await database.check()
    await database.close()
    connector = jobs.connector(url)
    await connector.open_async()
    assert await connector.execute_query_one_async("SELECT current_database() AS name") == {"name": url.database}
    await connector.close_async()
