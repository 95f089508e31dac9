"""One database, SQLite or PostgreSQL: opened, migrated, read and written. Knows no table.

Reads are single statements, each its own snapshot, on connections that never open a transaction. A write is one transaction, opened
at the edge by whoever runs a command. SQLite has one writer connection (BEGIN IMMEDIATE, so a write never fails for having read
first) and an OS lock beside the file: one process owns the database, and a second one is told so.
"""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout
from sqlalchemy import URL, event, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from db.types import dump_json

Connection = AsyncConnection
"""What `read()` and `write()` give, for the layers that pass it on without knowing SQLAlchemy."""

DatabaseError = (SQLAlchemyError, OSError)
"""What reading and writing may raise when the database is away, or refuses."""

_READERS = 8
_REFUSED_STATES = ("22", "23", "42", "54")  # PostgreSQL: data, integrity, access rule, program limit
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING


class DatabaseInUse(Exception):
    """Another process has this SQLite file open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by another process; one process at a time may open a SQLite database")


class DatabaseUnusable(Exception):
    """The database cannot be opened as configured."""


class _SQLiteConnection(sqlite3.Connection):
    """Closing rolls back. SQLite itself would keep the transaction, and so its lock, for as long as a cursor lives in some traceback."""

    def close(self) -> None:
        if self.in_transaction:
            self.rollback()
        super().close()


class Database:
    """`read()` and `write()` give a connection; nothing else is needed to talk to either database."""

    def __init__(self, url: URL, *, readers: AsyncEngine, writer: AsyncEngine, lock: FileLock | None) -> None:
        self.url = url
        self._readers = readers
        self._writer = writer
        self._lock = lock

    @classmethod
    def open(cls, url: str, *, pool_size: int = _READERS) -> "Database":
        """Connects lazily. Raises DatabaseInUse, DatabaseUnusable."""
        parsed = make_url(url)
        match parsed.get_backend_name():
            case "sqlite":
                return cls._open_sqlite(parsed)
            case "postgresql":
                return cls._open_postgresql(parsed, pool_size)
            case other:
                raise DatabaseUnusable(f"no support for {other} databases")

    @classmethod
    def _open_sqlite(cls, url: URL) -> "Database":
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
        return cls(url, readers=readers, writer=writer, lock=lock)

    @classmethod
    def _open_postgresql(cls, url: URL, pool_size: int) -> "Database":
        readers = _engine(url, pool_size=pool_size, max_overflow=0, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
        writer = _engine(url, pool_size=pool_size, max_overflow=0)
        return cls(url, readers=readers, writer=writer, lock=None)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """For single SELECTs. Two statements on it may see two states."""
        async with self._readers.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction (READ COMMITTED, or SQLite's only writer): committed on leaving, rolled back on any exception."""
        async with self._writer.begin() as connection:
            yield connection

    async def check(self) -> None:
        """Raises DatabaseError when the database does not answer."""
        async with self.read() as connection:
            await connection.execute(select(1))

    async def close(self) -> None:
        await self._readers.dispose()
        await self._writer.dispose()
        if self._lock is not None:
            self._lock.release()


def _engine(url: URL, **options: Any) -> AsyncEngine:
    return create_async_engine(url, json_serializer=dump_json, json_deserializer=orjson.loads, **options)


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
