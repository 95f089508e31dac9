"""What mutations on conversations are given, checked and turned into the engine's requests."""

from collections.abc import Sequence

from resolvers.arguments import MAX_DESCRIPTION, MAX_NAME, amount, optional_text, text, unique, well_formed
from resolvers.context import NotFound
from resolvers.inputs.blocks import MAX_BLOCKS
from resolvers.inputs.retries import hashed
from resolvers.inputs.settings import model_settings
from runs.conversations import NewConversation
from schema.inputs.conversations import CreateConversationInput
from vocabulary.ids import Noun


def new_conversation(given: CreateConversationInput) -> NewConversation:
    if not well_formed(given.agent_id, Noun.AGENT):
        raise NotFound(given.agent_id)
    request = NewConversation(
        agent_id=given.agent_id,
        summary=optional_text("input.summary", given.summary, at_least=0, at_most=MAX_DESCRIPTION),
        model=optional_text("input.model", given.model),
        model_settings=None if given.model_settings is None else model_settings("input.modelSettings", given.model_settings),
        isolated_block_labels=_labels("input.isolatedBlockLabels", given.isolated_block_labels or []),
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return hashed(request)


def _labels(path: str, given: Sequence[str]) -> tuple[str, ...]:
    amount(path, len(given), "labels", 0, MAX_BLOCKS)
    labels = tuple(text(f"{path}[{i}]", label, at_most=MAX_NAME) for i, label in enumerate(given))
    unique((f"{path}[{i}]", label) for i, label in enumerate(labels))
    return labels
