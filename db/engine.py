"""One database, SQLite or PostgreSQL: opened, migrated, read and written. Knows no table.

Reads are single statements, each its own snapshot, on connections that never open a transaction. A write is one transaction, opened
at the edge by whoever runs a command. SQLite has one writer connection (BEGIN IMMEDIATE, so a write never fails for having read
first) and an OS lock beside the file: one process owns the database, and a second one is told so.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import orjson
from filelock import FileLock, Timeout
from sqlalchemy import URL, event, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from db.types import dump_json

Connection = AsyncConnection
"""What `read()` and `write()` give, for the layers that pass it on without knowing SQLAlchemy."""

DatabaseError = (SQLAlchemyError, OSError)
"""What reading and writing may raise when the database is away, or refuses."""

_FOR_ALL = MappingProxyType({"jit": "off"})
"""A page of messages or events looks dear to the planner, which counts what few rows need for all of them: trails of what is open, calls
that wait. PostgreSQL would compile the statement first, anew each time, which takes it a hundred times as long as the page.
"""

_TO_WRITE = MappingProxyType({"random_page_cost": "1"})
"""What is written was just read, so no page is far away. Else a table of a few pages is planned to be read whole, for each row that
is wanted, and the plan is kept while the table grows: as `heads` does beside an old snapshot.
"""

_READERS = 8
_SILENCE_S = 5.0
_REFUSED_STATES = ("22", "23", "42", "54")  # PostgreSQL: data, integrity, access rule, program limit
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING


class DatabaseInUse(Exception):
    """Another process has this SQLite file open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by another process; one process at a time may open a SQLite database")


class DatabaseUnusable(Exception):
    """The database cannot be opened as configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresLimits:
    """`pool_size` counts twice: connections that read, and connections that write; a worker has one more. Timeouts are the server's, set
    once per connection.

    Whoever stops in the middle of a transaction loses it after `idle_in_transaction_s`, before others give up waiting for its locks.
    `statement_s` None: statements may take as long as they like. `program`: what `pg_stat_activity` calls us.
    """

    pool_size: int = 10
    lock_s: float = 3.0
    idle_in_transaction_s: float = 2.0
    statement_s: float | None = 15.0
    tcp_user_s: float = 10.0
    connect_s: float = 5.0
    program: str = "parley"

    def server_settings(self) -> dict[str, str]:
        """As PostgreSQL names them, times in milliseconds; 0 is its word for never."""
        seconds = {
            "lock_timeout": self.lock_s,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_s,
            "statement_timeout": self.statement_s or 0,
            "tcp_user_timeout": self.tcp_user_s,
        }
        return {"application_name": self.program, **{name: str(round(value * 1000)) for name, value in seconds.items()}, **_FOR_ALL}

    def connect_arguments(self, more_settings: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        # The client's own deadline is for a server that no longer answers at all; one that does would have answered before.
        command_s = None if self.statement_s is None else self.statement_s + _SILENCE_S
        return {"server_settings": {**self.server_settings(), **more_settings}, "timeout": self.connect_s, "command_timeout": command_s}


def _lower(value: object) -> str | None:
    return None if value is None else str(value).lower()


class _SQLiteConnection(sqlite3.Connection):
    """Closing rolls back. SQLite itself would keep the transaction, and so its lock, for as long as a cursor lives in some traceback.

    Its own lower() knows no letters but ASCII's; a search that is blind to case needs them all, as on PostgreSQL.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.create_function("lower", 1, _lower, deterministic=True)

    def close(self) -> None:
        if self.in_transaction:
            self.rollback()
        super().close()


class Database:
    """`read()` and `write()` give a connection; nothing else is needed to talk to either database."""

    def __init__(self, url: URL, *, readers: AsyncEngine, writer: AsyncEngine, apart: AsyncEngine, lock: FileLock | None) -> None:
        self.url = url
        self._readers = readers
        self._writer = writer
        self._apart = apart
        self._lock = lock

    @classmethod
    def open(cls, url: str, *, postgres: PostgresLimits | None = None) -> Self:
        """Connects lazily. Raises DatabaseInUse, DatabaseUnusable."""
        parsed = make_url(url)
        match parsed.get_backend_name():
            case "sqlite":
                return cls._open_sqlite(parsed)
            case "postgresql":
                return cls._open_postgresql(parsed, postgres or PostgresLimits())
            case other:
                raise DatabaseUnusable(f"no support for {other} databases")

    @classmethod
    def _open_sqlite(cls, url: URL) -> Self:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise DatabaseUnusable(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or newer is needed")
        if not url.database or url.database == ":memory:":
            raise DatabaseUnusable("a SQLite database needs a file: sqlite+aiosqlite:///parley.db")
        path = Path(url.database).absolute()
        if not path.parent.is_dir():
            raise DatabaseUnusable(f"the folder of {path} does not exist")
        lock = FileLock(f"{path}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise DatabaseInUse(path) from None
        made = {"factory": _SQLiteConnection}
        writer = _engine(url, pool_size=1, max_overflow=0, connect_args=made)
        readers = _engine(
            url, connect_args=made, pool_size=_READERS, max_overflow=0, isolation_level="AUTOCOMMIT", pool_reset_on_return=None
        )
        event.listen(writer.sync_engine, "connect", _prepare_sqlite_writer)
        event.listen(writer.sync_engine, "begin", _begin_immediate)
        event.listen(readers.sync_engine, "connect", _prepare_sqlite_reader)
        return cls(url, readers=readers, writer=writer, apart=writer, lock=lock)

    @classmethod
    def _open_postgresql(cls, url: URL, limits: PostgresLimits) -> Self:
        options: dict[str, Any] = {"pool_size": limits.pool_size, "max_overflow": 0}
        readers = _engine(url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, connect_args=limits.connect_arguments(), **options)
        writing = options | {"connect_args": limits.connect_arguments(_TO_WRITE)}
        writer, apart = _engine(url, **writing), _engine(url, **writing | {"pool_size": 1})
        for engine in (readers, writer, apart):
            event.listen(engine.sync_engine, "checkout", _refuse_closed)
        return cls(url, readers=readers, writer=writer, apart=apart, lock=None)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """For single SELECTs. Two statements on it may see two states."""
        async with self._readers.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[AsyncConnection]:
        """One transaction (READ COMMITTED, or SQLite's only writer): committed on leaving, rolled back on any exception.

        `committed` is called in the same breath as the commit is known. A cancellation that comes when the commit has begun is raised
        when both are done: nobody else could tell whom it concerns that it happened.
        """
        async with self._writer.connect() as connection, AsyncExitStack() as transaction:
            await transaction.enter_async_context(connection.begin())
            yield connection
            await _to_its_end(_commit(transaction.pop_all(), committed))

    @asynccontextmanager
    async def write_apart(self) -> AsyncGenerator[AsyncConnection]:
        """The same on a connection that stands in nobody's line, for what must be done in time however busy all others are.

        SQLite has none to spare.
        """
        async with self._apart.connect() as connection, connection.begin():
            yield connection

    def pools(self) -> dict[str, QueuePool]:
        """The connections, by what they do."""
        found = {"read": self._readers.sync_engine.pool, "write": self._writer.sync_engine.pool}
        return {name: pool for name, pool in found.items() if isinstance(pool, QueuePool)}

    async def check(self) -> None:
        """Raises DatabaseError when the database does not answer."""
        async with self.read() as connection:
            await connection.execute(select(1))

    async def close(self) -> None:
        await self._readers.dispose()
        await self._writer.dispose()
        await self._apart.dispose()
        if self._lock is not None:
            self._lock.release()


async def _commit(transaction: AsyncExitStack, committed: Callable[[], None] | None) -> None:
    await transaction.aclose()  # a commit() of our own would, when it fails, leave the transaction open in the pool
    if committed is not None:
        committed()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """However often the caller is cancelled meanwhile: that is raised afterwards, with the error of the work as its cause."""
    task, cancelled = asyncio.create_task(work, name="commit"), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if cancelled is not None:
        raise cancelled from task.exception()
    task.result()


def _engine(url: URL, **options: Any) -> AsyncEngine:
    return create_async_engine(url, json_serializer=dump_json, json_deserializer=orjson.loads, **options)


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """A server that went away has closed what lay in the pool; the driver knows without asking, and the pool connects anew."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _prepare_sqlite_writer(connection: DBAPIConnection, _record: object) -> None:
    # isolation_level None: the driver opens no transaction of its own; _begin_immediate does.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "foreign_keys = ON"):
        _execute(connection, f"PRAGMA {pragma}")


def _prepare_sqlite_reader(connection: DBAPIConnection, _record: object) -> None:
    for pragma in ("busy_timeout = 5000", "query_only = ON"):
        _execute(connection, f"PRAGMA {pragma}")


def _execute(connection: DBAPIConnection, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def is_refusal(error: BaseException) -> bool:
    """Whether the database will never take this statement with this data, as opposed to being away, busy or cut off."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, StatementError | ValueError | TypeError)
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state.startswith(_REFUSED_STATES)
    return isinstance(error, DataError | IntegrityError | ProgrammingError) or isinstance(
        getattr(error.orig, "__cause__", None), ValueError
    )
