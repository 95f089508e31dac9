"""`python -m bench [NAME …] [--runs N] [--postgres | --database-url URL]`: measures, and prints a table for each name.

What is compared is measured in turn within one repetition. The databases are made for it and thrown away.
"""

import argparse
import asyncio
import os
import platform
import resource
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from uvicorn.loops.auto import auto_loop_factory

from bench.append import append
from bench.cancel import cancel
from bench.cancel_served import cancel_distributed, cancel_embedded
from bench.delivery import delivery
from bench.dispatch import dispatch
from bench.fanout import fanout
from bench.figures import Figure, table
from bench.first_delta import first_delta
from bench.ground import Ground, throwaway_postgres
from bench.idle import idle
from bench.long_history import long_history
from bench.quiet import quiet
from bench.replay import replay
from bench.snapshot import snapshot
from cluster.postgres import NoPostgres
from cluster.redis import NoRedis

BENCHMARKS: dict[str, tuple[str, Callable[[Ground], Awaitable[list[Figure]]]]] = {
    "append": ("events through the writer", append),
    "first_delta": ("time from sending to the first delta", first_delta),
    "cancel": ("time from a cancel to the end of its run", cancel),
    "cancel_embedded": ("time from cancelRun over HTTP to the end of its run at a WebSocket, SQLite", cancel_embedded),
    "replay": ("replay of an answer of 2,000 deltas", replay),
    "idle": ("memory per idle subscriber, of 2,000", idle),
    "long_history": ("pages and context of long conversations", long_history),
    "fanout": ("live deltas of one conversation", fanout),
}
ON_SERVERS: dict[str, tuple[str, Callable[[Ground], Awaitable[list[Figure]]]]] = {
    "delivery": ("from commit to client at 1,000 events a second, PostgreSQL, Redis and WebSocket", delivery),
    "dispatch": ("from an acknowledged send to its run's start in another process, through jobs", dispatch),
    "cancel_distributed": ("the same beside PostgreSQL and Redis, with the run in another process", cancel_distributed),
    "quiet": ("what 2,000 idle subscribers ask of PostgreSQL, and their memory", quiet),
    "snapshot": ("appending for a minute beside an old snapshot, PostgreSQL", snapshot),
}
"""These need --postgres or --database-url."""
LONGEST_S = 600.0


def main() -> None:
    given = _arguments()
    _allow_many_sockets()
    try:
        with _postgres(given) as postgres:
            ground = Ground(given.directory, postgres)
            _print_machine(ground)
            for name in given.names or _possible(ground):
                _measure(name, ground, given.runs)
    except (NoPostgres, NoRedis) as missing:
        raise SystemExit(str(missing)) from None


def _possible(ground: Ground) -> list[str]:
    return [*BENCHMARKS, *(ON_SERVERS if ground.postgres else ())]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures, and prints medians and spread.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS | ON_SERVERS)}; all when none is given")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="repetitions (default: 3)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where SQLite's files lie meanwhile")
    postgres = parser.add_mutually_exclusive_group()
    postgres.add_argument("--postgres", action="store_true", help="also on a PostgreSQL that is started for it")
    postgres.add_argument("--database-url", metavar="URL", help="also on this PostgreSQL, in databases that are created and dropped")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS | ON_SERVERS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS | ON_SERVERS)}")
    if (unserved := set(given.names) & set(ON_SERVERS)) and not (given.postgres or given.database_url):
        parser.error(f"{', '.join(sorted(unserved))}: needs --postgres or --database-url")
    if given.runs < 1:
        parser.error("--runs must be 1 or more")
    return given


def _postgres(given: argparse.Namespace) -> AbstractContextManager[str | None]:
    return throwaway_postgres() if given.postgres else nullcontext(given.database_url)


def _allow_many_sockets() -> None:
    """For us and for the servers that we start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _print_machine(ground: Ground) -> None:
    print(f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} processors")
    print(f"load before the start {os.getloadavg()[0]:.1f}, {ground.sync_ms():.2f} ms to sync 4 KiB to disk")


def _measure(name: str, ground: Ground, runs: int) -> None:
    title, benchmark = (BENCHMARKS | ON_SERVERS)[name]

    async def once() -> list[Figure]:
        async with asyncio.timeout(LONGEST_S):
            return await benchmark(ground)

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:  # the loop that the server runs on
        repetitions = [runner.run(once()) for _ in range(runs)]
    print(f"\n{table(f'{name}: {title}', repetitions)}", flush=True)


if __name__ == "__main__":
    main()
