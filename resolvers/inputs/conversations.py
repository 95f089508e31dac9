"""What mutations on conversations are given, checked and turned into the engine's requests."""

from collections.abc import Sequence

from resolvers.arguments import MAX_DESCRIPTION, MAX_NAME, amount, optional_text, text, unique, well_formed
from resolvers.context import NotFound
from resolvers.inputs.absence import or_kept
from resolvers.inputs.blocks import MAX_BLOCKS
from resolvers.inputs.retries import hashed
from resolvers.inputs.settings import model_settings, model_settings_change
from runs.commands.changes import ConversationChange
from runs.commands.conversations import NewConversation
from runs.commands.fork import NewFork
from schema.inputs.conversations import CreateConversationInput, ForkConversationInput, UpdateConversationInput
from vocabulary.ids import Noun


def new_conversation(given: CreateConversationInput) -> NewConversation:
    if not well_formed(given.agent_id, Noun.AGENT):
        raise NotFound(given.agent_id)
    request = NewConversation(
        agent_id=given.agent_id,
        summary=_summary(given.summary),
        model=_model(given.model),
        model_settings=None if given.model_settings is None else model_settings("input.modelSettings", given.model_settings),
        isolated_block_labels=_labels("input.isolatedBlockLabels", given.isolated_block_labels or []),
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return hashed(request)


def conversation_change(given: UpdateConversationInput) -> ConversationChange:
    settings = None if given.model_settings is None else model_settings_change("input.modelSettings", given.model_settings)
    return ConversationChange(
        conversation_id=conversation_id(given.id),
        summary=or_kept(given.summary, _summary),
        model=or_kept(given.model, _model),
        model_settings=settings,
    )


def new_fork(given: ForkConversationInput) -> NewFork:
    if given.through_message_id is not None and not well_formed(given.through_message_id, Noun.MESSAGE):
        raise NotFound(given.through_message_id)
    request = NewFork(
        conversation_id=conversation_id(given.id),
        through_message_id=given.through_message_id,
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return hashed(request)


def conversation_id(given: str) -> str:
    if not well_formed(given, Noun.CONVERSATION):
        raise NotFound(given)
    return given


def _summary(given: str | None) -> str | None:
    return optional_text("input.summary", given, at_least=0, at_most=MAX_DESCRIPTION)


def _model(given: str | None) -> str | None:
    return optional_text("input.model", given)


def _labels(path: str, given: Sequence[str]) -> tuple[str, ...]:
    amount(path, len(given), "labels", 0, MAX_BLOCKS)
    labels = tuple(text(f"{path}[{i}]", label, at_most=MAX_NAME) for i, label in enumerate(given))
    unique((f"{path}[{i}]", label) for i, label in enumerate(labels))
    return labels
