"""What mutations are given of memory blocks, checked and turned into the engine's requests.

Whether a value fits into a limit that is kept is known only under the block's lock: what the engine refuses is named here.
"""

import re
from collections.abc import Sequence

from strawberry import UNSET

from resolvers.arguments import MAX_DESCRIPTION, MAX_TEXT, BadUserInput, amount, number, optional_text, text, unique, well_formed
from resolvers.context import NotFound
from resolvers.inputs.absence import not_null, or_kept, or_null
from runs.commands.agents import GivenBlock, NewBlock
from runs.commands.blocks import BlockChange, BlockTooLong
from schema.inputs.agents import BlockInput, UpdateAgentInput, UpdateBlockInput
from vocabulary.ids import Noun

MAX_BLOCKS = 100
_DEFAULT_LIMIT = 5000
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def new_blocks(given: Sequence[BlockInput]) -> tuple[NewBlock, ...]:
    _check_labels(given)
    return tuple(_new_block(f"input.blocks[{i}]", block) for i, block in enumerate(given))


def given_blocks(given: Sequence[BlockInput]) -> tuple[GivenBlock, ...]:
    _check_labels(given)
    return tuple(_given_block(f"input.blocks[{i}]", block) for i, block in enumerate(given))


def block_change(given: UpdateBlockInput) -> BlockChange:
    if not well_formed(given.id, Noun.BLOCK):
        raise NotFound(given.id)
    return BlockChange(
        block_id=given.id,
        value=or_kept(given.value, lambda value: _value("input", not_null("input.value", value), at_most=MAX_TEXT)),
        description=or_kept(given.description, lambda description: _description("input", description)),
        limit=or_kept(given.limit, lambda limit: _limit("input", limit)),
        read_only=or_kept(given.read_only, bool),
    )


def too_long(given: UpdateAgentInput | UpdateBlockInput, refused: BlockTooLong) -> BadUserInput:
    """By its argument: the limit when nothing else was given, else the value."""
    if isinstance(given, UpdateAgentInput):
        [i] = [i for i, block in enumerate(given.blocks or []) if block.label == refused.label]
        argument = f"input.blocks[{i}].value"
    else:
        argument = "input.limit" if given.value is UNSET else "input.value"
    return BadUserInput(argument, f"does not fit: the block would hold {refused.length} characters with a limit of {refused.limit}")


def _check_labels(given: Sequence[BlockInput]) -> None:
    amount("input.blocks", len(given), "blocks", 0, MAX_BLOCKS)
    for i, block in enumerate(given):
        if not _LABEL.fullmatch(block.label):
            raise BadUserInput(f"input.blocks[{i}].label", "must be 1 to 64 letters, digits or any of _ - .")
    unique((f"input.blocks[{i}].label", block.label) for i, block in enumerate(given))


def _new_block(path: str, given: BlockInput) -> NewBlock:
    limit = _limit(path, or_null(given.limit))
    return NewBlock(
        label=given.label,
        value=_value(path, given.value, at_most=limit),
        description=_description(path, or_null(given.description)),
        limit=limit,
        read_only=bool(given.read_only),
    )


def _given_block(path: str, given: BlockInput) -> GivenBlock:
    return GivenBlock(
        label=given.label,
        value=_value(path, given.value, at_most=MAX_TEXT),
        description=or_kept(given.description, lambda description: _description(path, description)),
        limit=or_kept(given.limit, lambda limit: _limit(path, limit)),
        read_only=or_kept(given.read_only, bool),
    )


def _value(path: str, given: str, *, at_most: int) -> str:
    return text(f"{path}.value", given, at_least=0, at_most=at_most)


def _description(path: str, given: str | None) -> str | None:
    return optional_text(f"{path}.description", given, at_least=0, at_most=MAX_DESCRIPTION)


def _limit(path: str, given: int | None) -> int:
    return number(f"{path}.limit", _DEFAULT_LIMIT if given is None else given, 1, MAX_TEXT)
