"""Programs of ours as processes of their own, on the servers of the tests: what can be killed, stopped and told to leave."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cluster.programs import ROOT, AnyProgram, Program
from cluster.topology import WorkerProgram

LOCK_AND_STOP = """
import asyncio, os, signal, sys
from db import heads
from db.engine import Database, PostgresLimits

async def main(url, conversation_id, idle_in_transaction_s):
    database = Database.open(url, postgres=PostgresLimits(idle_in_transaction_s=float(idle_in_transaction_s)))
    async with database.write() as connection:
        await heads.lock(connection, conversation_id)
        sys.stderr.write("Working as one that holds a lock\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(main(*sys.argv[1:]))
"""

LEASE_S = 3.0


@dataclass(frozen=True, slots=True)
class Servers:
    """Where a process finds its database and its bus."""

    database_url: str
    redis_url: str


@asynccontextmanager
async def worker(servers: Servers, **settings: str) -> AsyncGenerator[WorkerProgram]:
    """`python -m runs`, ready to take jobs. Its lease is short, so that its death is soon noticed."""
    given = {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "LEASE_S": str(LEASE_S),
        "DEMO_DELAY_MS": "10",
        **settings,
    }
    async with _killed_at_the_end(WorkerProgram("worker", given)) as running:
        yield running


@asynccontextmanager
async def stopped_with_a_lock(servers: Servers, conversation_id: str, *, idle_in_transaction_s: float = 2) -> AsyncGenerator[Program]:
    """A process that was stopped in the middle of a transaction that holds the conversation's head.

    `idle_in_transaction_s`: after so long the database takes the lock away; 0: only when the process ends.
    """
    command = [sys.executable, "-c", LOCK_AND_STOP, servers.database_url, conversation_id, str(idle_in_transaction_s)]
    async with _killed_at_the_end(Program("holder", command, {"PYTHONPATH": str(ROOT)}, ready="Working")) as running:
        yield running


@asynccontextmanager
async def _killed_at_the_end(program: AnyProgram) -> AsyncGenerator[AnyProgram]:
    """What it could not finish is of no interest any more."""
    try:
        yield await program.start()
    finally:
        await program.kill()
