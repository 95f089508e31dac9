"""Commands on agents, with the memory blocks that all their conversations share.

An update changes the row under its lock, so that of two at once neither undoes what only the other one said.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from db import agents, blocks
from runs.commands.blocks import changed_block
from runs.commands.conversations import AgentNotFound
from runs.engine import Engine
from streams.log import Transaction
from vocabulary.changes import KEPT, Fields, Kept, changed
from vocabulary.compaction import CompactionSettings
from vocabulary.conversations import Agent, AgentTool, Block
from vocabulary.ids import Noun, new_id
from vocabulary.model_settings import ModelSettings


class UnknownTool(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no tool named {name!r}.")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBlock:
    label: str
    value: str
    description: str | None = None
    limit: int = 5000
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAgent:
    """`model` None: the server's default."""

    name: str
    description: str | None = None
    instructions: str = ""
    model: str | None = None
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    compaction_settings: CompactionSettings = field(default_factory=CompactionSettings)
    blocks: tuple[NewBlock, ...] = ()
    tools: tuple[AgentTool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBlock:
    """A block as an update gives it: what is KEPT stays as the block with this label has it, or is the default of a new one."""

    label: str
    value: str
    description: str | Kept | None = KEPT
    limit: int | Kept = KEPT
    read_only: bool | Kept = KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTool:
    """A tool as an update gives it. `requires_approval` None: the tool's own default."""

    name: str
    requires_approval: bool | Kept | None = KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChange:
    """`model` None: the server's default. `blocks` and `tools` are all that the agent has afterwards, the same by label and by name."""

    agent_id: str
    name: str | Kept = KEPT
    description: str | Kept | None = KEPT
    instructions: str | Kept = KEPT
    model: str | Kept | None = KEPT
    model_settings: Fields = field(default_factory=dict[str, object])
    compaction_settings: Fields = field(default_factory=dict[str, object])
    blocks: tuple[GivenBlock, ...] | Kept = KEPT
    tools: tuple[GivenTool, ...] | Kept = KEPT


async def create_agent(engine: Engine, tenant: str, new: NewAgent) -> Agent:
    """Raises ModelNotFound, UnknownTool; nothing is stored then."""
    model = engine.models.resolve(new.model or engine.default_model)
    _require_summariser(engine, new.compaction_settings.model)
    for tool in new.tools:
        _require_tool(engine, tool.name)
    now = engine.clock()
    agent = Agent(
        id=new_id(Noun.AGENT),
        tenant=tenant,
        name=new.name,
        description=new.description,
        instructions=new.instructions,
        model=model.handle,
        model_settings=new.model_settings,
        compaction_settings=new.compaction_settings,
        tools=new.tools,
        created_at=now,
        updated_at=now,
    )
    async with engine.log.transaction() as transaction:
        await agents.create(transaction.connection, agent, [_shared(agent, block, now) for block in new.blocks])
    return agent


async def update_agent(engine: Engine, tenant: str, change: AgentChange) -> Agent:
    """Raises AgentNotFound, ModelNotFound, UnknownTool, BlockTooLong; nothing is changed then."""
    model = change.model if change.model is KEPT else engine.models.resolve(change.model or engine.default_model).handle
    _require_summariser(engine, change.compaction_settings.get("model"))
    for tool in () if change.tools is KEPT else change.tools:
        _require_tool(engine, tool.name)
    async with engine.log.transaction() as transaction:
        agent = await agents.lock(transaction.connection, tenant, change.agent_id)
        if agent is None:
            raise AgentNotFound(change.agent_id)
        wanted = changed(
            agent,
            name=change.name,
            description=change.description,
            instructions=change.instructions,
            model=model,
            model_settings=replace(agent.model_settings, **change.model_settings),
            compaction_settings=agent.compaction_settings.changed(change.compaction_settings),
            tools=_tools(agent, change),
        )
        other_blocks = change.blocks is not KEPT and await _replace_blocks(transaction, agent, change.blocks)
        if wanted == agent and not other_blocks:
            return agent
        updated = replace(wanted, updated_at=transaction.now)
        await agents.save(transaction.connection, updated)
        return updated


async def delete_agent(engine: Engine, tenant: str, agent_id: str) -> None:
    """Its conversations are hidden with it; `runs/workers/orphans.py` deletes them, one after the other. Raises AgentNotFound."""
    async with engine.log.transaction() as transaction:
        if await agents.lock(transaction.connection, tenant, agent_id) is None:
            raise AgentNotFound(agent_id)
        await agents.mark_deleted(transaction.connection, agent_id, now=transaction.now)
        transaction.lists_in_doubt(tenant)


def _require_tool(engine: Engine, name: str) -> None:
    if engine.tools.get(name) is None:
        raise UnknownTool(name)


def _require_summariser(engine: Engine, handle: str | None) -> None:
    if handle is not None:
        engine.models.resolve(handle)


def _tools(agent: Agent, change: AgentChange) -> tuple[AgentTool, ...] | Kept:
    if change.tools is KEPT:
        return KEPT
    had = {tool.name: tool for tool in agent.tools}
    return tuple(
        changed(had.get(given.name, AgentTool(name=given.name)), requires_approval=given.requires_approval) for given in change.tools
    )


async def _replace_blocks(transaction: Transaction, agent: Agent, given: tuple[GivenBlock, ...]) -> bool:
    """Whether there was anything to do."""
    had = {block.label: block for block in await blocks.lock_shared(transaction.connection, agent.id)}
    wanted = [_given_block(agent, had.get(block.label), block, transaction.now) for block in given]
    labels = {block.label for block in wanted}
    await blocks.remove(transaction.connection, [block.id for label, block in had.items() if label not in labels])
    await blocks.save(transaction.connection, [block for block in wanted if block.label in had and block != had[block.label]])
    await blocks.create(transaction.connection, [block for block in wanted if block.label not in had])
    return {block.label: block for block in wanted} != had


def _given_block(agent: Agent, had: Block | None, given: GivenBlock, now: datetime) -> Block:
    below = _shared(agent, NewBlock(label=given.label, value=""), now) if had is None else had
    return changed_block(below, value=given.value, description=given.description, limit=given.limit, read_only=given.read_only, now=now)


def _shared(agent: Agent, new: NewBlock, now: datetime) -> Block:
    return Block(
        id=new_id(Noun.BLOCK),
        tenant=agent.tenant,
        agent_id=agent.id,
        conversation_id=None,
        label=new.label,
        value=new.value,
        description=new.description,
        limit=new.limit,
        read_only=new.read_only,
        updated_at=now,
    )
