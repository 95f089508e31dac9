"""Workers and their leases, on the database's clock."""

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.dialect import now, seconds_from_now
from db.tables import runs, workers
from vocabulary.runs import RunStatus


async def register(connection: AsyncConnection, worker_id: str, lease_s: float) -> None:
    lease = {"id": worker_id, "started_at": now(), "lease_expires_at": seconds_from_now(literal(lease_s))}
    await connection.execute(insert(workers).values(lease))


async def renew(connection: AsyncConnection, worker_id: str, lease_s: float) -> list[str]:
    """One heartbeat. Answers the ids of the runs that this worker still holds; it must let go of any other."""
    await connection.execute(update(workers).where(workers.c.id == worker_id).values(lease_expires_at=seconds_from_now(literal(lease_s))))
    query = select(runs.c.id).where(runs.c.worker_id == worker_id, runs.c.status == RunStatus.RUNNING.value)
    return list((await connection.execute(query)).scalars())


async def retire(connection: AsyncConnection, worker_id: str) -> None:
    await connection.execute(delete(workers).where(workers.c.id == worker_id))


async def retire_all(connection: AsyncConnection) -> None:
    """For the sole owner of a database, at start: every lease found is of a process that is gone."""
    await connection.execute(delete(workers))


async def holds_lease(connection: AsyncConnection, worker_id: str) -> bool:
    query = select(workers.c.id).where(workers.c.id == worker_id, workers.c.lease_expires_at > now())
    return (await connection.execute(query)).one_or_none() is not None
