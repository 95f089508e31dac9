"""Bringing a database to this version's tables, and refusing one that is newer."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from db.engine import Database, DatabaseUnusable

_LOCK = 7_264_001  # any constant: serialises concurrent upgrades of one PostgreSQL database


class DatabaseTooNew(Exception):
    """A newer version of the program has migrated this database."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the database is at revision {revision}, which this version does not know; run the version that migrated it")


async def upgrade(database: Database) -> None:
    """To the newest tables, in one transaction. Raises DatabaseTooNew, DatabaseUnusable."""
    try:
        async with database.write() as connection:
            await connection.run_sync(_upgrade)
    except DBAPIError as error:
        raise DatabaseUnusable(f"DATABASE_URL: {database.url.render_as_string()} cannot be used: {error.orig}") from None


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for revision in MigrationContext.configure(connection).get_current_heads():
        if revision not in known:
            raise DatabaseTooNew(revision)
    command.upgrade(config, "head")
