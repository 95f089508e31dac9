"""`python -m db upgrade`: brings the database of DATABASE_URL to this version's tables.

`python -m db rewound`: run it once after a restore or a failover that has lost something, before anything is served.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from db.engine import Database, DatabaseInUse, DatabaseUnusable, PostgresLimits
from db.migrate import DatabaseTooNew, DatabaseTooOld, in_one_line, require_current, upgrade
from db.rewound import raise_heads
from settings import DatabaseSettings, SettingsError

_AT_ONCE = 1000

REFUSALS = (SettingsError, DatabaseInUse, DatabaseUnusable, DatabaseTooNew, DatabaseTooOld)


async def rewound(database: Database) -> None:
    """All conversations, a bounded number in each transaction. Interrupted, it is simply called again. Raises DatabaseUnusable."""
    await require_current(database)
    done = ""
    while True:
        with in_one_line(database):
            async with database.write() as connection:
                last = await raise_heads(connection, after=done, limit=_AT_ONCE, now=datetime.now(UTC))
        if last is None:
            return
        done = last


COMMANDS: dict[str, Callable[[Database], Awaitable[None]]] = {"upgrade": upgrade, "rewound": rewound}


async def _on_database(url: str, command: Callable[[Database], Awaitable[None]]) -> None:
    database = Database.open(url, postgres=PostgresLimits(pool_size=1, statement_s=None))
    try:
        await command(database)
    finally:
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m db", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    command = COMMANDS[parser.parse_args().command]
    try:
        asyncio.run(_on_database(DatabaseSettings.from_environment(os.environ).database_url, command))
    except REFUSALS as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
