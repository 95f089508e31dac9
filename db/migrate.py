"""Bringing a database to this version's tables, and refusing one that is older or newer."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from db.engine import Database, DatabaseError, DatabaseUnusable

LOCK = 7_264_001  # any constant: serialises concurrent upgrades of one PostgreSQL database
_LONGEST_LOCK_WAIT = "10s"


class DatabaseTooNew(Exception):
    """A newer version of the program has migrated this database."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the database is at revision {revision}, which this version does not know; run the version that migrated it")


class DatabaseTooOld(Exception):
    """The tables are those of an older version; nobody has migrated them yet."""

    def __init__(self, revision: str | None) -> None:
        found = "has no tables" if revision is None else f"is at revision {revision}, older than this version"
        super().__init__(f"the database {found}; run `python -m db upgrade` first")


async def upgrade(database: Database, *, to: str = "head") -> None:
    """To the newest tables, or to those of an older revision, in one transaction. Raises DatabaseTooNew, DatabaseUnusable."""
    with in_one_line(database):
        async with database.write() as connection:
            await connection.run_sync(_upgrade, to)


async def require_current(database: Database) -> None:
    """For programs that share a database with others, and so leave it as it is. Raises DatabaseTooOld, DatabaseTooNew, DatabaseUnusable."""
    with in_one_line(database):
        async with database.read() as connection:
            await connection.run_sync(_require_current)


@contextmanager
def in_one_line(database: Database) -> Generator[None]:
    """For what a program cannot start without. Raises DatabaseUnusable instead of DatabaseError."""
    try:
        yield
    except DatabaseError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split()) or repr(error)
        raise DatabaseUnusable(f"DATABASE_URL: {database.url.render_as_string()} cannot be used: {reason}") from None


def _upgrade(connection: Connection, to: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        _wait_in_line(connection)
    _refuse_newer(connection, ScriptDirectory.from_config(config))
    command.upgrade(config, to)


def _require_current(connection: Connection) -> None:
    scripts = ScriptDirectory.from_config(_config())
    _refuse_newer(connection, scripts)
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision != scripts.get_current_head():
        raise DatabaseTooOld(revision)


def _refuse_newer(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    for revision in MigrationContext.configure(connection).get_current_heads():
        if revision not in known:
            raise DatabaseTooNew(revision)


def _wait_in_line(connection: Connection) -> None:
    """However long another upgrade takes, and ours; but who serves meanwhile must not queue up behind a lock that we do not get."""
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(text(f"SET LOCAL {name} = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LONGEST_LOCK_WAIT}'"))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
