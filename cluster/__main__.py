"""`python -m cluster`: everything of docker-compose.yml as processes of this machine, until Ctrl-C. PORT is the proxy's; 0: any free one.

The other settings of the environment reach the APIs and the workers; where their database and their Redis are is told here.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping

from cluster.ports import is_free
from cluster.postgres import NoPostgres
from cluster.programs import DidNotStart
from cluster.redis import NoRedis
from cluster.topology import Topology, topology
from settings import Settings, SettingsError

OURS = frozenset({"HOST", "PORT", "DATABASE_URL", "REDIS_URL", "REDIS_CLUSTER", "ALLOW_INSECURE_BIND"})
SETTABLE = frozenset(name.upper() for name in Settings.model_fields) - OURS


class PortTaken(Exception):
    """The message is one line."""


async def run(environ: Mapping[str, str]) -> None:
    """Until it is cancelled. Raises SettingsError, PortTaken, NoPostgres, NoRedis, DidNotStart."""
    settings = {name: value for name, value in environ.items() if name in SETTABLE}
    port = Settings.from_environment({**settings, "PORT": environ.get("PORT", "")}).port
    if port and not is_free(port):
        raise PortTaken(f"cannot listen on PORT {port}: something else does")
    _say("Starting PostgreSQL, Redis, two APIs, two workers and a proxy")
    async with topology(apis=2, workers=2, port=port or None, **settings) as running:
        _say(f"Parley is at {running.url}", *_parts(running), "Ctrl-C ends all of it; the data are thrown away.")
        await asyncio.Event().wait()


def _parts(running: Topology) -> list[str]:
    urls = {api.name: api.url for api in running.apis} | {"PostgreSQL": running.postgres.url, "Redis": running.redis.url}
    workers = {worker.name: f"process {worker.pid}" for worker in running.workers}
    return [f"  {name:12}{where}" for name, where in (urls | workers).items()]


def _say(*lines: str) -> None:
    sys.stderr.writelines(f"{line}\n" for line in lines)


async def until_told() -> None:
    """The first signal ends it in good order; more of them change nothing."""
    running = asyncio.create_task(run(os.environ), name="cluster")
    leaving = asyncio.Event()

    def leave() -> None:
        if not leaving.is_set():
            leaving.set()
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, leave)
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def main() -> None:
    try:
        asyncio.run(until_told())
    except (SettingsError, PortTaken, NoPostgres, NoRedis, DidNotStart) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
