"""Workers and their leases, on the database's clock."""

from dataclasses import dataclass
from enum import Enum, auto

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.dialect import now, seconds_from_now
from db.tables import runs, workers
from vocabulary.runs import RunStatus


class LeaseState(Enum):
    """EXPIRED: the worker may be dead, or only late. GONE: it has retired, or was forgotten."""

    HELD = auto()
    EXPIRED = auto()
    GONE = auto()


async def register(connection: AsyncConnection, worker_id: str, lease_s: float) -> None:
    lease = {"id": worker_id, "started_at": now(), "lease_expires_at": seconds_from_now(literal(lease_s))}
    await connection.execute(insert(workers).values(lease))


@dataclass(frozen=True, slots=True)
class Held:
    run_id: str
    conversation_id: str


async def renew(connection: AsyncConnection, worker_id: str, lease_s: float) -> bool:
    """False: there is no such worker any more; it was forgotten, or has retired."""
    lease = update(workers).where(workers.c.id == worker_id).values(lease_expires_at=seconds_from_now(literal(lease_s)))
    return (await connection.execute(lease)).rowcount == 1


async def held(connection: AsyncConnection, worker_id: str) -> list[Held]:
    """The runs that are this worker's; it must let go of any other."""
    query = select(runs.c.id, runs.c.conversation_id).where(runs.c.worker_id == worker_id, runs.c.status == RunStatus.RUNNING.value)
    return [Held(*row) for row in await connection.execute(query)]


async def retire(connection: AsyncConnection, worker_id: str) -> None:
    await connection.execute(delete(workers).where(workers.c.id == worker_id))


async def retire_all(connection: AsyncConnection) -> None:
    """For the sole owner of a database, at start: every lease found is of a process that is gone."""
    await connection.execute(delete(workers))


async def forget_gone(connection: AsyncConnection, *, gone_s: float) -> None:
    """Removes what is left of workers that were killed so long ago that nobody waits for them any more."""
    gone = workers.c.lease_expires_at < seconds_from_now(literal(-gone_s))
    found = select(workers.c.id).where(gone).order_by(workers.c.id).with_for_update(skip_locked=True)
    await connection.execute(delete(workers).where(workers.c.id.in_(found.scalar_subquery())))


async def lease_of(connection: AsyncConnection, worker_id: str) -> LeaseState:
    query = select(workers.c.lease_expires_at > now()).where(workers.c.id == worker_id)
    match (await connection.execute(query)).scalar_one_or_none():
        case None:
            return LeaseState.GONE
        case holds:
            return LeaseState.HELD if holds else LeaseState.EXPIRED
