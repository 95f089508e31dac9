"""What mutations on agents are given, checked and turned into the engine's requests. In a new one null means the default, too."""

from collections.abc import Sequence

from resolvers.arguments import MAX_DESCRIPTION, MAX_NAME, MAX_TEXT, BadUserInput, amount, optional_text, text, unique, well_formed
from resolvers.context import NotFound
from resolvers.inputs.absence import not_null, or_kept, or_null
from resolvers.inputs.blocks import given_blocks, new_blocks
from resolvers.inputs.settings import compaction_change, compaction_settings, model_settings, model_settings_change
from runs.commands.agents import AgentChange, GivenTool, NewAgent
from schema.inputs.agents import AgentToolInput, CreateAgentInput, UpdateAgentInput
from vocabulary.conversations import AgentTool
from vocabulary.ids import Noun

_MAX_TOOLS = 100


def new_agent(given: CreateAgentInput) -> NewAgent:
    _check_tools(given.tools or [])
    return NewAgent(
        name=_name(given.name),
        description=_description(given.description),
        instructions=_instructions(given.instructions),
        model=optional_text("input.model", given.model),
        model_settings=model_settings("input.modelSettings", given.model_settings),
        compaction_settings=compaction_settings("input.compactionSettings", given.compaction_settings),
        blocks=new_blocks(given.blocks or []),
        tools=tuple(AgentTool(name=tool.name, requires_approval=or_null(tool.requires_approval)) for tool in given.tools or []),
    )


def agent_change(given: UpdateAgentInput) -> AgentChange:
    return AgentChange(
        agent_id=agent_id(given.id),
        name=or_kept(given.name, _name),
        description=or_kept(given.description, _description),
        instructions=or_kept(given.instructions, _instructions),
        model=or_kept(given.model, lambda model: optional_text("input.model", model)),
        model_settings=model_settings_change("input.modelSettings", given.model_settings),
        compaction_settings=compaction_change("input.compactionSettings", given.compaction_settings),
        blocks=or_kept(given.blocks, lambda blocks: given_blocks(blocks or [])),
        tools=or_kept(given.tools, lambda tools: _given_tools(tools or [])),
    )


def agent_id(given: str) -> str:
    if not well_formed(given, Noun.AGENT):
        raise NotFound(given)
    return given


def _name(given: str | None) -> str:
    name = not_null("input.name", given)
    if not name.strip():
        raise BadUserInput("input.name", "must not be empty")
    return text("input.name", name, at_most=MAX_NAME)


def _description(given: str | None) -> str | None:
    return optional_text("input.description", given, at_least=0, at_most=MAX_DESCRIPTION)


def _instructions(given: str | None) -> str:
    return text("input.instructions", given or "", at_least=0, at_most=MAX_TEXT)


def _given_tools(given: Sequence[AgentToolInput]) -> tuple[GivenTool, ...]:
    _check_tools(given)
    return tuple(GivenTool(name=tool.name, requires_approval=or_kept(tool.requires_approval, lambda said: said)) for tool in given)


def _check_tools(given: Sequence[AgentToolInput]) -> None:
    amount("input.tools", len(given), "tools", 0, _MAX_TOOLS)
    unique((f"input.tools[{i}].name", text(f"input.tools[{i}].name", tool.name, at_most=MAX_NAME)) for i, tool in enumerate(given))
