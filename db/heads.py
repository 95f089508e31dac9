"""Heads: the one hot row of a conversation. Its lock makes commit order equal to sequence order; the fence on it keeps lost runs out.

While an old snapshot is open no version of a head can be removed, and to find the living one by its key is to visit them all. So on
PostgreSQL whoever was granted a head remembers where it lies (docs/decisions/0011-where-a-head-lies.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import CTE, ColumnElement, FromClause, Integer, String, Subquery, bindparam, cast, func, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from db.dialect import Tid, batch, tid_of
from db.tables import heads
from db.types import Identifier, Json


@dataclass(slots=True, kw_only=True)
class Head:
    """A locked head, changed in memory and saved once. `next_ordinal`: the place of the next message that enters history."""

    conversation_id: str
    head_sequence: int = 0
    next_ordinal: int = 1
    active_run_id: str | None = None
    fence: int = 0
    write_number: int = 0
    list_version: int = 0

    def take_sequence(self) -> int:
        self.head_sequence += 1
        return self.head_sequence

    def take_ordinal(self) -> int:
        self.next_ordinal += 1
        return self.next_ordinal - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one run asks of its head in one batch: so many numbers and ordinals, if the lease still holds.

    `tid`: where it was told that the head lies. It may be wrong by now, or another row's; that costs a look-up by key and nothing else.
    """

    conversation_id: str
    run_id: str
    fence: int
    write_number: int
    sequences: int
    ordinals: int
    tid: str | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The first sequence and the first ordinal that the claim may use. `tid`: where the head lies from now on, for the next claim."""

    first_sequence: int
    first_ordinal: int
    tid: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Grants:
    """`skipped`: their leases hold, but their heads were locked by others, or being changed by them. Who is in neither has lost its lease.

    By claim, not by conversation: beside the run that holds a head, one that has lost it without knowing may claim it in the same batch.
    """

    granted: dict[Claim, Granted]
    skipped: frozenset[Claim]


_CLAIM_COLUMNS = {
    "conversation_id": Identifier,
    "run_id": Identifier,
    "fence": Integer(),
    "write_number": Integer(),
    "sequences": Integer(),
    "ordinals": Integer(),
    "tid": Tid(),
}


async def create(connection: AsyncConnection, head: Head) -> None:
    await connection.execute(insert(heads), asdict(head))


async def lock(connection: AsyncConnection, conversation_id: str) -> Head | None:
    """Waits for the row's lock and holds it until the transaction ends."""
    query = select(heads).where(heads.c.conversation_id == conversation_id).with_for_update(key_share=True)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else Head(**row)


async def save(connection: AsyncConnection, head: Head) -> None:
    values = asdict(head)
    await connection.execute(update(heads).where(heads.c.conversation_id == values.pop("conversation_id")).values(**values))


async def positions(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, int]:
    """One statement, the same for any number of conversations."""
    result = await connection.execute(_POSITIONS, {"ids": [[id_] for id_ in conversation_ids]})
    return {row.conversation_id: row.head_sequence for row in result}


async def write_numbers(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, tuple[str | None, int, int]]:
    """By conversation: the active run, the fence and the number of the last committed batch, to settle an unknown commit."""
    query = select(heads).where(heads.c.conversation_id.in_(list(conversation_ids)))
    return {row.conversation_id: (row.active_run_id, row.fence, row.write_number) for row in await connection.execute(query)}


async def grant(connection: AsyncConnection, claims: Sequence[Claim], *, patient: bool = False) -> Grants:
    """Locks the heads and raises those whose lease holds. Whoever is locked by another is passed over, or waited for, in id order.

    The check stands in the locking statement's own WHERE: a check on any other row would leak under READ COMMITTED.
    """
    rows = [[getattr(claim, column) for column in _CLAIM_COLUMNS] for claim in claims]
    by_key = patient or connection.dialect.name != "postgresql"
    result = await connection.execute(_GRANT_BY_KEY if by_key else _GRANT_WHERE_THEY_LIE, {"claims": rows})
    raised = {(row.conversation_id, row.active_run_id, row.fence, row.write_number - 1): row for row in result}
    granted = {
        claim: Granted(row.head_sequence - claim.sequences + 1, row.next_ordinal - claim.ordinals, row.tid)
        for claim in claims
        if (row := raised.get((claim.conversation_id, claim.run_id, claim.fence, claim.write_number))) is not None
    }
    missing = [claim for claim in claims if claim not in granted]
    return Grants(granted, await _still_theirs(connection, missing) if missing else frozenset())


async def _still_theirs(connection: AsyncConnection, missing: Sequence[Claim]) -> frozenset[Claim]:
    """A lease once lost is lost for ever, so the committed row tells whether who was not granted was only passed over."""
    found = await write_numbers(connection, {claim.conversation_id for claim in missing})
    return frozenset(claim for claim in missing if found.get(claim.conversation_id) == (claim.run_id, claim.fence, claim.write_number))


async def release(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, int]:
    """Their runs have ended: nobody holds them any more. Answers their new list versions. The caller has their locks."""
    let_go = {"active_run_id": None, "fence": heads.c.fence + 1, "list_version": heads.c.list_version + 1}
    statement = update(heads).where(heads.c.conversation_id.in_(list(conversation_ids))).values(let_go)
    result = await connection.execute(statement.returning(heads.c.conversation_id, heads.c.list_version))
    return {row.conversation_id: row.list_version for row in result}


_ids = batch(bindparam("ids", type_=Json), {"conversation_id": Identifier}, name="ids")
_POSITIONS = select(heads.c.conversation_id, heads.c.head_sequence).join(_ids, heads.c.conversation_id == _ids.c.conversation_id)
_Raised = ReturningUpdate[str, str, int, int, int, int, str | None]
_claims = batch(bindparam("claims", type_=Json), _CLAIM_COLUMNS, name="claims")


def _held(head: FromClause) -> ColumnElement[bool]:
    return (
        (head.c.conversation_id == _claims.c.conversation_id)
        & (head.c.active_run_id == _claims.c.run_id)
        & (head.c.fence == _claims.c.fence)
        & (head.c.write_number == _claims.c.write_number)
    )


def _raised(by: Subquery | CTE, tid: ColumnElement[Any]) -> _Raised:
    """Answers whose claim it was: of several on one head, one holds at most."""
    raised = {
        "head_sequence": heads.c.head_sequence + by.c.sequences,
        "next_ordinal": heads.c.next_ordinal + by.c.ordinals,
        "write_number": heads.c.write_number + 1,
    }
    claim = (heads.c.conversation_id, heads.c.active_run_id, heads.c.fence, heads.c.write_number)
    return update(heads).values(raised).returning(*claim, heads.c.head_sequence, heads.c.next_ordinal, tid.label("tid"))


def _grant_by_key() -> _Raised:
    """Waits for locks, in id order. Answers no places: a database that has none gets this statement too."""
    locked = (
        select(heads.c.conversation_id)
        .join(_claims, _held(heads))
        .order_by(heads.c.conversation_id)
        .with_for_update(key_share=True, of=heads)
        .cte("locked")
    )
    return _raised(_claims, null()).where(_held(heads), heads.c.conversation_id.in_(select(locked.c.conversation_id)))


def _grant_where_they_lie() -> _Raised:
    """Waits for nobody, so it needs no order. A claim is looked up where it says, and by its key when its head no longer lies there.

    With a statement of its own for each claim (LATERAL) the planner cannot read the whole table once and join, however small that was
    when it planned.
    """
    there, anywhere, head = heads.alias("there"), heads.alias("anywhere"), heads.alias("head")
    remembered = select(tid_of(there)).where(tid_of(there) == _claims.c.tid, there.c.conversation_id == _claims.c.conversation_id)
    by_key = select(tid_of(anywhere)).where(anywhere.c.conversation_id == _claims.c.conversation_id)
    tid = func.coalesce(remembered.correlate(_claims).scalar_subquery(), by_key.correlate(_claims).scalar_subquery())
    taken = (
        select(head.c.conversation_id, tid_of(head).label("tid"))
        .where(tid_of(head) == tid, _held(head))
        .correlate(_claims)
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("taken")
    )
    # Said once more, the key tells the planner that there is one head for each claim: so it goes to each, instead of through all.
    one_each = taken.c.conversation_id == _claims.c.conversation_id
    locked = select(taken, _claims.c.sequences, _claims.c.ordinals).select_from(_claims.join(taken, one_each)).cte("locked")
    lies_there = (tid_of(heads) == locked.c.tid) & (heads.c.conversation_id == locked.c.conversation_id)
    return _raised(locked, cast(tid_of(heads), String)).where(lies_there)


_GRANT_BY_KEY, _GRANT_WHERE_THEY_LIE = _grant_by_key(), _grant_where_they_lie()
