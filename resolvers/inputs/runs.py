"""What mutations on runs are given, checked against its documented ranges and turned into the engine's requests."""

from resolvers.arguments import number, optional_text, well_formed
from resolvers.context import NotFound
from resolvers.inputs.retries import hashed
from resolvers.inputs.sending import MAX_WAIT_S
from resolvers.inputs.settings import compaction_overrides
from runs.commands.compact import CompactRequest
from schema.inputs.runs import CompactConversationInput
from vocabulary.ids import Noun

_PATIENCE_S = 120


def compact_request(given: CompactConversationInput) -> CompactRequest:
    if not well_formed(given.id, Noun.CONVERSATION):
        raise NotFound(given.id)
    request = CompactRequest(
        conversation_id=given.id,
        settings=compaction_overrides("input.settings", given.settings),
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return hashed(request)


def wait_s(given: CompactConversationInput) -> int:
    return number("input.waitSeconds", _PATIENCE_S if given.wait_seconds is None else given.wait_seconds, 0, MAX_WAIT_S)
