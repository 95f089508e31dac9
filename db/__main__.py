"""`python -m db upgrade`: brings the database of DATABASE_URL to this version's tables."""

import argparse
import asyncio
import os
import sys

from db.engine import Database, DatabaseInUse, DatabaseUnusable
from db.migrate import DatabaseTooNew, upgrade
from settings import Settings, SettingsError


async def _upgrade(url: str) -> None:
    database = Database.open(url)
    try:
        await upgrade(database)
    finally:
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m db", description=__doc__)
    parser.add_argument("command", choices=["upgrade"])
    parser.parse_args()
    try:
        asyncio.run(_upgrade(Settings.from_environment(os.environ).database_url))
    except (SettingsError, DatabaseInUse, DatabaseUnusable, DatabaseTooNew) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
