"""Identifiers: opaque to clients, prefixed with their noun, unique across tenants, roughly ordered by time (UUIDv7).

The prefix tells `node(id:)` where to look. Nothing else may be read out of an id.
"""

from enum import StrEnum

from uuid_utils.compat import uuid7


class Noun(StrEnum):
    """The prefix of an id."""

    AGENT = "agent"
    CONVERSATION = "conv"
    MESSAGE = "message"
    TOOL_CALL = "toolcall"
    RUN = "run"
    STEP = "step"
    BLOCK = "block"
    WORKER = "worker"


_NOUNS = {str(noun): noun for noun in Noun}


def new_id(noun: Noun) -> str:
    return f"{noun}-{uuid7()}"


def noun_of(identifier: str) -> Noun | None:
    """The noun whose id this could be; None when it has the prefix of none."""
    prefix, _, rest = identifier.partition("-")
    return _NOUNS.get(prefix) if rest else None
