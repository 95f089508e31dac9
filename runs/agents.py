"""Commands on agents."""

from dataclasses import dataclass, field

from db import agents
from runs.engine import Engine
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
    blocks: tuple[NewBlock, ...] = ()
    tools: tuple[AgentTool, ...] = ()


async def create_agent(engine: Engine, tenant: str, new: NewAgent) -> Agent:
    """Raises ModelNotFound, UnknownTool; nothing is stored then."""
    model = engine.models.resolve(new.model or engine.default_model)
    for tool in new.tools:
        if engine.tools.get(tool.name) is None:
            raise UnknownTool(tool.name)
    now = engine.clock()
    agent = Agent(
        id=new_id(Noun.AGENT),
        tenant=tenant,
        name=new.name,
        description=new.description,
        instructions=new.instructions,
        model=model.handle,
        model_settings=new.model_settings,
        tools=new.tools,
        created_at=now,
        updated_at=now,
    )
    blocks = [
        Block(
            id=new_id(Noun.BLOCK),
            tenant=tenant,
            agent_id=agent.id,
            conversation_id=None,
            label=block.label,
            value=block.value,
            description=block.description,
            limit=block.limit,
            read_only=block.read_only,
            updated_at=now,
        )
        for block in new.blocks
    ]
    async with engine.log.transaction() as transaction:
        await agents.create(transaction.connection, agent, blocks)
    return agent
