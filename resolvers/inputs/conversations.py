"""What mutations on conversations are given, checked and turned into the engine's requests."""

from resolvers.arguments import MAX_DESCRIPTION, optional_text, well_formed
from resolvers.context import NotFound
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
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return hashed(request)
