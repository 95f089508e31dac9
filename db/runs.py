"""Runs and their steps."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db import codec
from db.conversations import MAY_RUN, is_visible
from db.dialect import now
from db.paging import KeyColumn, KeysetOrder, Page, Window, fetch_pages
from db.tables import IS_LIVE, conversations, runs, steps, workers
from vocabulary.runs import Run, RunKind, RunStatus, Step, StopReason

OLDEST_FIRST = KeysetOrder((KeyColumn(runs.c.created_sequence),))


async def create(connection: AsyncConnection, run: Run) -> None:
    await connection.execute(insert(runs), [_values(run)])


async def save(connection: AsyncConnection, changed: Sequence[Run]) -> None:
    """Writes what can change of a run."""
    if changed:
        await connection.execute(_UPDATE, [{name: getattr(run, name) for name in _CHANGING} | {"run_id_": run.id} for run in changed])


async def get(connection: AsyncConnection, run_id: str) -> Run | None:
    row = (await connection.execute(select(runs).where(runs.c.id == run_id))).one_or_none()
    return None if row is None else run_of(row)


async def by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Run]:
    """Runs of deleted conversations are gone with them."""
    query = select(runs).where(runs.c.id.in_(list(ids)), is_visible(tenant, runs.c.conversation_id).correlate(runs))
    return [run_of(row) for row in await connection.execute(query)]


async def by_key(connection: AsyncConnection, conversation_id: str, idempotency_key: str) -> Run | None:
    query = select(runs).where(runs.c.conversation_id == conversation_id, runs.c.idempotency_key == idempotency_key)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else run_of(row)


async def live(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, list[Run]]:
    """The RUNNING run, that which goes first, then the queue in its order, by conversation. Conversations with none are missing."""
    query = select(runs).where(IS_LIVE, runs.c.conversation_id.in_(list(conversation_ids)))
    by_conversation: dict[str, list[Run]] = {}
    for row in await connection.execute(query.order_by(runs.c.conversation_id, runs.c.created_sequence)):
        by_conversation.setdefault(row.conversation_id, []).append(run_of(row))
    for waiting in by_conversation.values():
        waiting.sort(key=lambda run: (run.status is not RunStatus.RUNNING, not run.goes_first))  # stable: the queue stays in its order
    return by_conversation


@dataclass(frozen=True, slots=True)
class Unattended:
    """A conversation whose next run nobody works on. `worker_id`: who let the lease of that run run out; None: nobody holds it.

    `waits`: in line, to be begun; else it was under way, and its worker is lost or has let go of it.
    """

    conversation_id: str
    run_id: str
    worker_id: str | None
    waits: bool


async def unattended(connection: AsyncConnection) -> list[Unattended]:
    """Conversations that need somebody to advance them: a run waits and none runs, or the running one's worker let its lease run out.
    Those whose run was under way come first; a bounded number.
    """
    return [Unattended(*row) for row in await connection.execute(_UNATTENDED)]


def _unattended(limit: int) -> Select[Any, Any, Any, Any]:
    held = select(workers.c.id).where(workers.c.lease_expires_at > now())
    running = select(runs.c.conversation_id).where(runs.c.status == RunStatus.RUNNING.value, runs.c.worker_id.in_(held))
    waits = (runs.c.status != RunStatus.RUNNING.value).label("waits")
    in_line = (waits, runs.c.goes_first.desc(), runs.c.created_sequence)
    place = func.row_number().over(partition_by=runs.c.conversation_id, order_by=in_line).label("place")
    query = select(runs.c.conversation_id, runs.c.id, runs.c.worker_id, runs.c.created_at, waits, place)
    query = query.join(conversations, conversations.c.id == runs.c.conversation_id)
    line = query.where(IS_LIVE, MAY_RUN, runs.c.conversation_id.not_in(running)).subquery()
    first = select(line.c.conversation_id, line.c.id, line.c.worker_id, line.c.waits).where(line.c.place == 1)
    return first.order_by(line.c.waits, line.c.created_at).limit(limit)


_UNATTENDED = _unattended(limit=1000)


async def pages(
    connection: AsyncConnection, conversation_ids: Collection[str], statuses: Collection[RunStatus] | None, window: Window
) -> dict[str, Page[Run]]:
    rows = select(runs).where(_in(statuses))
    return await fetch_pages(connection, rows, runs.c.conversation_id, conversation_ids, OLDEST_FIRST, window, run_of)


async def counts(connection: AsyncConnection, conversation_ids: Iterable[str], statuses: Collection[RunStatus] | None) -> dict[str, int]:
    query = select(runs.c.conversation_id, func.count()).where(runs.c.conversation_id.in_(list(conversation_ids)), _in(statuses))
    return {row[0]: row[1] for row in await connection.execute(query.group_by(runs.c.conversation_id))}


def _in(statuses: Collection[RunStatus] | None) -> ColumnElement[bool]:
    return runs.c.status.in_([status.value for status in RunStatus if statuses is None or status in statuses])


# ---- steps


async def create_steps(connection: AsyncConnection, started: Sequence[Step]) -> None:
    if started:
        await connection.execute(insert(steps), [_step_values(step) for step in started])


async def save_steps(connection: AsyncConnection, changed: Sequence[Step]) -> None:
    if changed:
        values = [
            {"step_id_": s.id, "usage": s.usage, "stop_reason": s.stop_reason, "completed_at": s.completed_at, "model": s.model}
            for s in changed
        ]
        await connection.execute(_UPDATE_STEP, values)


async def steps_of(connection: AsyncConnection, run_ids: Iterable[str]) -> list[Step]:
    """By run, in their order."""
    query = select(steps).where(steps.c.run_id.in_(list(run_ids))).order_by(steps.c.run_id, steps.c.step_index)
    return [step_of(row) for row in await connection.execute(query)]


async def last_counted(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, Step]:
    """By conversation, the last step that answered, where its provider has told how much it was shown, and that was the conversation.

    What a request was given for itself, a system prompt or tools of the client, is counted there and nobody knows as how much. An
    earlier step is not looked for: where every request has some, that would read them all.
    """
    newest = (
        select(steps.c.id)
        .where(steps.c.conversation_id == conversations.c.id, steps.c.kind == RunKind.RESPONSE.value, steps.c.completed_at.is_not(None))
        .order_by(steps.c.started_at.desc(), steps.c.step_index.desc())
        .limit(1)
        .correlate(conversations)
        .scalar_subquery()
    )
    counted = conversations.join(steps, steps.c.id == newest).join(runs, runs.c.id == steps.c.run_id)
    query = select(steps).select_from(counted).where(conversations.c.id.in_(list(conversation_ids)), *_NOTHING_OF_ITS_OWN)
    found = map(step_of, await connection.execute(query))
    return {step.conversation_id: step for step in found if step.usage.input_tokens and not step.usage.estimated}


_NOTHING_OF_ITS_OWN = (
    runs.c.request["override_system"].as_string().is_(None),
    func.coalesce(runs.c.request["client_tools"].as_string(), "[]") == "[]",
)
_CHANGING = (
    "status",
    "stop_reason",
    "error",
    "usage",
    "sequence",
    "worker_id",
    "attempt",
    "started_at",
    "completed_at",
    "time_to_first_token_ms",
)
_UPDATE = update(runs).where(runs.c.id == bindparam("run_id_")).values({name: bindparam(name) for name in _CHANGING})
_UPDATE_STEP = (
    update(steps)
    .where(steps.c.id == bindparam("step_id_"))
    .values({name: bindparam(name) for name in ("usage", "stop_reason", "completed_at", "model")})
)


def _values(run: Run) -> dict[str, Any]:
    return {column.name: getattr(run, column.name) for column in runs.c} | {"request": codec.stored_request(run.request)}


def _step_values(step: Step) -> dict[str, Any]:
    return {**{column.name: getattr(step, column.name, None) for column in steps.c}, "step_index": step.index}


def run_of(row: Row[Any]) -> Run:
    return Run(
        id=row.id,
        tenant=row.tenant,
        conversation_id=row.conversation_id,
        kind=RunKind(row.kind),
        status=RunStatus(row.status),
        stop_reason=None if row.stop_reason is None else StopReason(row.stop_reason),
        error=None if row.error is None else codec.run_error.validate_python(row.error),
        model=row.model,
        request=codec.run_request(row.request),
        usage=codec.usage.validate_python(row.usage),
        group_id=row.group_id,
        idempotency_key=row.idempotency_key,
        body_hash=row.body_hash,
        applied_through_sequence=row.applied_through_sequence,
        created_sequence=row.created_sequence,
        sequence=row.sequence,
        worker_id=row.worker_id,
        attempt=row.attempt,
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        time_to_first_token_ms=row.time_to_first_token_ms,
        goes_first=row.goes_first,
    )


def step_of(row: Row[Any]) -> Step:
    return Step(
        id=row.id,
        run_id=row.run_id,
        conversation_id=row.conversation_id,
        index=row.step_index,
        model=row.model,
        usage=codec.usage.validate_python(row.usage),
        stop_reason=None if row.stop_reason is None else StopReason(row.stop_reason),
        started_at=row.started_at,
        completed_at=row.completed_at,
        kind=RunKind(row.kind),
    )
