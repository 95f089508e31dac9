"""Jobs in Procrastinate's tables: deferred by its own SQL function, on the caller's connection, in the caller's transaction.

Its Python side cannot do that on our connections, and a job deferred on another one could be lost between the two commits. The
function and the tables are those of the pinned version; `procrastinate.py` beside the migrations installs them.
"""

import psycopg
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ProcrastinateException
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.address import libpq_arguments
from db.types import dump_json

QUEUE = "parley"
ADVANCE = "advance"

# No `lock`: it would invert the queue after a crash. No `queueing_lock`: it would make us wait for, and then fail with, another
# transaction that defers a job for the same conversation, to save a job that costs nothing.
_DEFER = text("""
    SELECT procrastinate_defer_jobs_v1(ARRAY[
        ROW(:queue, :task, 0, NULL, NULL, CAST(:args AS jsonb), NULL)::procrastinate_job_to_defer_v1
    ])
""")

_REMOVE_ABANDONED = text("""
    DELETE FROM procrastinate_jobs WHERE id IN (
        SELECT job.id FROM procrastinate_jobs job LEFT JOIN procrastinate_workers worker ON worker.id = job.worker_id
        WHERE job.status = 'doing' AND job.queue_name = :queue
          AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => :silent_s))
        ORDER BY job.id LIMIT :limit FOR UPDATE OF job SKIP LOCKED
    )
""")


async def defer(connection: AsyncConnection, conversation_id: str) -> None:
    args = dump_json({"conversation_id": conversation_id})
    await connection.execute(_DEFER, {"queue": QUEUE, "task": ADVANCE, "args": args})


async def remove_abandoned(connection: AsyncConnection, *, silent_s: float, limit: int) -> int:
    """Removes jobs that died with their worker, and answers how many. What they asked for is found by the reconcilers."""
    return (await connection.execute(_REMOVE_ABANDONED, {"queue": QUEUE, "silent_s": silent_s, "limit": limit})).rowcount


JobsError = (ProcrastinateException, psycopg.Error, OSError)
"""What Procrastinate raises when the database is away."""


def connector(url: URL, *, pool_size: int = 4) -> PsycopgConnector:
    """Connections of its own, on top of the pools of `engine.py`; one more listens."""
    options = {"connect_timeout": 5, "application_name": "parley jobs"}
    return PsycopgConnector(conninfo=make_conninfo("", **libpq_arguments(url)), min_size=1, max_size=pool_size, timeout=5.0, kwargs=options)
