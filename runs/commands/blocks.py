"""Commands on memory blocks, shared and isolated. `read_only` binds the model, not who calls these."""

from dataclasses import dataclass, replace
from datetime import datetime

from db import blocks
from runs.engine import Engine
from vocabulary.changes import KEPT, Kept, changed
from vocabulary.conversations import Block


class BlockNotFound(Exception):
    def __init__(self, block_id: str) -> None:
        super().__init__(f"There is no memory block {block_id!r}.")
        self.block_id = block_id


class BlockTooLong(Exception):
    """The value is longer than the block's limit: the one that it has, or the one that it was to get."""

    def __init__(self, label: str, *, length: int, limit: int) -> None:
        super().__init__(f"The memory block {label!r} may hold {limit} characters, and its value has {length}.")
        self.label = label
        self.length = length
        self.limit = limit


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChange:
    block_id: str
    value: str | Kept = KEPT
    description: str | Kept | None = KEPT
    limit: int | Kept = KEPT
    read_only: bool | Kept = KEPT


async def update_block(engine: Engine, tenant: str, change: BlockChange) -> Block:
    """Raises BlockNotFound, BlockTooLong; nothing is changed then. Conversations show it when their system message is compiled again."""
    async with engine.log.transaction() as transaction:
        block = await blocks.lock(transaction.connection, tenant, change.block_id)
        if block is None:
            raise BlockNotFound(change.block_id)
        updated = changed_block(
            block,
            value=change.value,
            description=change.description,
            limit=change.limit,
            read_only=change.read_only,
            now=transaction.now,
        )
        if updated != block:
            await blocks.save(transaction.connection, [updated])
        return updated


def changed_block(
    block: Block,
    *,
    value: str | Kept,
    description: str | Kept | None,
    limit: int | Kept,
    read_only: bool | Kept,
    now: datetime,
) -> Block:
    """Itself when nothing is different. Raises BlockTooLong."""
    updated = changed(block, value=value, description=description, limit=limit, read_only=read_only)
    if len(updated.value) > updated.limit:
        raise BlockTooLong(block.label, length=len(updated.value), limit=updated.limit)
    return block if updated == block else replace(updated, updated_at=now)
