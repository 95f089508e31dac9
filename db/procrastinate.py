"""Procrastinate's schema, installed and brought up by migrations of ours from the files of the pinned package.

Which of its migrations a database has is written as a comment on its jobs table, since Procrastinate keeps no record of its own. See
docs/decisions/0007-jobs.md for how its version is raised.
"""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import asyncpg
from sqlalchemy import Connection, text

from db.engine import DatabaseUnusable

_MARK = "parley: procrastinate through "


def bring_up(connection: Connection, *, through: str) -> None:
    """Up to and with the migration named `through` (a file's name without its ending). A new schema is the package's newest.

    In the caller's transaction. Raises DatabaseUnusable when the tables are there and are not ours.
    """
    if connection.execute(text("SELECT to_regclass('procrastinate_jobs') IS NULL")).scalar_one():
        _run(connection, resources.files("procrastinate.sql").joinpath("schema.sql"))
        return _mark(connection, max(_migrations()))
    done = _marked(connection)
    for name, file in sorted(_migrations().items()):
        if done < name <= through:
            _run(connection, file)
            _mark(connection, name)


def _migrations() -> dict[str, Traversable]:
    found = resources.files("procrastinate.sql").joinpath("migrations").iterdir()
    return {file.name.removesuffix(".sql"): file for file in found if file.name.endswith(".sql")}


def _run(connection: Connection, file: Traversable) -> None:
    """Many statements at once, which only the driver itself takes."""
    script = file.read_text(encoding="utf-8")
    driver: Any = connection.connection.dbapi_connection

    async def execute(raw: asyncpg.Connection) -> None:
        await raw.execute(script)

    driver.run_async(execute)


def _marked(connection: Connection) -> str:
    comment = connection.execute(text("SELECT obj_description('procrastinate_jobs'::regclass)")).scalar_one_or_none()
    if not isinstance(comment, str) or not comment.startswith(_MARK):
        raise DatabaseUnusable("the database has tables of Procrastinate that this program did not make; give it a database of its own")
    return comment.removeprefix(_MARK)


def _mark(connection: Connection, name: str) -> None:
    connection.execute(text(f"COMMENT ON TABLE procrastinate_jobs IS '{_MARK}{name}'"))
