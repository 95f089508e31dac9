"""Heads: the one hot row of a conversation. Its lock makes commit order equal to sequence order; the fence on it keeps lost runs out."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Integer, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from db.dialect import batch
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
    """What one run asks of its head in one batch: so many numbers and ordinals, if the lease still holds."""

    conversation_id: str
    run_id: str
    fence: int
    write_number: int
    sequences: int
    ordinals: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The first sequence and the first ordinal that the claim may use."""

    first_sequence: int
    first_ordinal: int


@dataclass(frozen=True, slots=True)
class Grants:
    """By conversation; `skipped`: their leases hold, but their heads were locked by others. Who is in neither has lost its lease."""

    granted: dict[str, Granted]
    skipped: frozenset[str]


_CLAIM_COLUMNS = {
    "conversation_id": Identifier,
    "run_id": Identifier,
    "fence": Integer(),
    "write_number": Integer(),
    "sequences": Integer(),
    "ordinals": Integer(),
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
    """Locks the heads in id order and raises those whose lease holds. Whoever is locked by another is passed over, or waited for.

    The check stands in the locking statement's own WHERE: a check on any other row would leak under READ COMMITTED.
    """
    rows = [[getattr(claim, column) for column in _CLAIM_COLUMNS] for claim in claims]
    result = await connection.execute(_GRANT_PATIENTLY if patient else _GRANT, {"claims": rows})
    by_conversation = {claim.conversation_id: claim for claim in claims}
    granted = {
        row.conversation_id: Granted(
            row.head_sequence - by_conversation[row.conversation_id].sequences + 1,
            row.next_ordinal - by_conversation[row.conversation_id].ordinals,
        )
        for row in result
    }
    missing = [claim for claim in claims if claim.conversation_id not in granted]
    return Grants(granted, await _still_theirs(connection, missing) if missing else frozenset())


async def _still_theirs(connection: AsyncConnection, missing: Sequence[Claim]) -> frozenset[str]:
    """A lease once lost is lost for ever, so the committed row tells whether who was not granted was only passed over."""
    found = await write_numbers(connection, [claim.conversation_id for claim in missing])
    return frozenset(
        claim.conversation_id for claim in missing if found.get(claim.conversation_id) == (claim.run_id, claim.fence, claim.write_number)
    )


async def release(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, int]:
    """Their runs have ended: nobody holds them any more. Answers their new list versions. The caller has their locks."""
    let_go = {"active_run_id": None, "fence": heads.c.fence + 1, "list_version": heads.c.list_version + 1}
    statement = update(heads).where(heads.c.conversation_id.in_(list(conversation_ids))).values(let_go)
    result = await connection.execute(statement.returning(heads.c.conversation_id, heads.c.list_version))
    return {row.conversation_id: row.list_version for row in result}


_ids = batch(bindparam("ids", type_=Json), {"conversation_id": Identifier}, name="ids")
_POSITIONS = select(heads.c.conversation_id, heads.c.head_sequence).join(_ids, heads.c.conversation_id == _ids.c.conversation_id)
_claims = batch(bindparam("claims", type_=Json), _CLAIM_COLUMNS, name="claims")
_held = (
    (heads.c.conversation_id == _claims.c.conversation_id)
    & (heads.c.active_run_id == _claims.c.run_id)
    & (heads.c.fence == _claims.c.fence)
    & (heads.c.write_number == _claims.c.write_number)
)


def _grant(*, patient: bool) -> ReturningUpdate[str, int, int]:
    locked = (
        select(heads.c.conversation_id)
        .join(_claims, _held)
        .order_by(heads.c.conversation_id)
        .with_for_update(key_share=True, of=heads, skip_locked=not patient)
        .cte("locked")
    )
    return (
        update(heads)
        .where(_held, heads.c.conversation_id.in_(select(locked.c.conversation_id)))
        .values(
            head_sequence=heads.c.head_sequence + _claims.c.sequences,
            next_ordinal=heads.c.next_ordinal + _claims.c.ordinals,
            write_number=heads.c.write_number + 1,
        )
        .returning(heads.c.conversation_id, heads.c.head_sequence, heads.c.next_ordinal)
    )


_GRANT, _GRANT_PATIENTLY = _grant(patient=False), _grant(patient=True)
