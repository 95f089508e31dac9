"""Creating a conversation: with its system message, and copies of the memory blocks that are to be its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from db import agents, blocks, conversations, messages
from runs.commands.idempotency import conversation_made_before
from runs.engine import Engine
from runs.prompt import compile_system, memory
from streams.log import Transaction
from vocabulary.conversations import Agent, Block, Conversation, ConversationStatus
from vocabulary.events import MessageCompleted
from vocabulary.ids import Noun, new_id
from vocabulary.lists import ListChangeKind
from vocabulary.messages import Message, MessageStatus, MessageType, SystemBody
from vocabulary.model_settings import ModelSettings


class AgentNotFound(Exception):
    def __init__(self, agent_id: str) -> None:
        super().__init__(f"There is no agent {agent_id!r}.")
        self.agent_id = agent_id


class UnknownBlock(Exception):
    def __init__(self, label: str) -> None:
        super().__init__(f"The agent has no memory block labelled {label!r}.")
        self.label = label


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConversation:
    """`isolated_block_labels`: of the agent's blocks, each at most once, those of which the conversation gets copies of its own."""

    agent_id: str
    summary: str | None = None
    model: str | None = None
    model_settings: ModelSettings | None = None
    isolated_block_labels: tuple[str, ...] = ()
    idempotency_key: str | None = None
    body_hash: str | None = None


async def create_conversation(engine: Engine, tenant: str, new: NewConversation) -> Conversation:
    """With its compiled system message, the first entry of its history. A known idempotency key answers with what it made before.

    Raises AgentNotFound, ModelNotFound, UnknownBlock, IdempotencyConflict; nothing is stored then.
    """
    async with engine.log.transaction() as transaction:
        # The agent's row serialises creations under one idempotency key: a concurrent retry waits here and then finds the first.
        agent = await agents.lock(transaction.connection, tenant, new.agent_id)
        if agent is None:
            raise AgentNotFound(new.agent_id)
        if found := await conversation_made_before(transaction, agent.id, new.idempotency_key, new.body_hash):
            return found
        if new.model is not None:
            engine.models.resolve(new.model)
        return await _create(transaction, agent, new)


async def _create(transaction: Transaction, agent: Agent, new: NewConversation) -> Conversation:
    shared = await agents.blocks_by_agent(transaction.connection, [agent.id])
    conversation_id, system_id = new_id(Noun.CONVERSATION), new_id(Noun.MESSAGE)
    isolated = _isolated(shared, new.isolated_block_labels, conversation_id, transaction.now)
    conversation = Conversation(
        id=conversation_id,
        tenant=agent.tenant,
        agent_id=agent.id,
        summary=new.summary,
        model=new.model,
        model_settings=new.model_settings,
        status=ConversationStatus.IDLE,
        head_sequence=1,
        system_message_id=system_id,
        summary_message_id=None,
        tail_ordinal=1,
        forked_from_id=None,
        last_message_at=None,
        last_run_completed_at=None,
        created_at=transaction.now,
        updated_at=transaction.now,
    )
    await conversations.create(transaction.connection, conversation, scope=agent.id, key=new.idempotency_key, body_hash=new.body_hash)
    await blocks.create(transaction.connection, isolated)
    head = await transaction.create_head(conversation_id)
    system = Message(
        id=system_id,
        conversation_id=conversation_id,
        type=MessageType.SYSTEM,
        status=MessageStatus.COMPLETED,
        ordinal=head.take_ordinal(),
        text=compile_system(agent.instructions, memory(shared, isolated)),
        body=SystemBody(),
        in_tail=False,
        in_context=True,
        group_id=None,
        run_id=None,
        step_id=None,
        sequence=head.take_sequence(),
        created_at=transaction.now,
    )
    await messages.create(transaction.connection, [system])
    transaction.append(head, system.sequence, MessageCompleted(system))
    transaction.list_changed(head, conversation, ListChangeKind.CREATED)
    return conversation


def _isolated(shared: Sequence[Block], labels: Iterable[str], conversation_id: str, now: datetime) -> list[Block]:
    """Copies of the blocks with these labels, as they are now."""
    by_label = {block.label: block for block in shared}
    for label in labels:
        if label not in by_label:
            raise UnknownBlock(label)
    return [replace(by_label[label], id=new_id(Noun.BLOCK), conversation_id=conversation_id, updated_at=now) for label in labels]
