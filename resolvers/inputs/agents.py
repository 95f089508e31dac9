"""What mutations on agents are given, checked and turned into the engine's requests. In a new one null means the default, too."""

import re
from collections.abc import Iterable, Sequence

from resolvers.arguments import MAX_DESCRIPTION, MAX_NAME, MAX_TEXT, BadUserInput, amount, number, optional_text, text
from resolvers.inputs.settings import model_settings
from runs.agents import NewAgent, NewBlock
from schema.inputs.agents import AgentToolInput, BlockInput, CreateAgentInput
from vocabulary.conversations import AgentTool

_MAX_BLOCKS = 100
_MAX_TOOLS = 100
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def new_agent(given: CreateAgentInput) -> NewAgent:
    if not given.name.strip():
        raise BadUserInput("input.name", "must not be empty")
    return NewAgent(
        name=text("input.name", given.name, at_most=MAX_NAME),
        description=optional_text("input.description", given.description, at_least=0, at_most=MAX_DESCRIPTION),
        instructions=text("input.instructions", given.instructions or "", at_least=0, at_most=MAX_TEXT),
        model=optional_text("input.model", given.model),
        model_settings=model_settings("input.modelSettings", given.model_settings),
        blocks=_blocks(given.blocks or []),
        tools=_tools(given.tools or []),
    )


def _blocks(given: Sequence[BlockInput]) -> tuple[NewBlock, ...]:
    amount("input.blocks", len(given), "blocks", 0, _MAX_BLOCKS)
    _unique("input.blocks", "label", (block.label for block in given))
    return tuple(_block(f"input.blocks[{i}]", block) for i, block in enumerate(given))


def _block(path: str, given: BlockInput) -> NewBlock:
    if not _LABEL.fullmatch(given.label):
        raise BadUserInput(f"{path}.label", "must be 1 to 64 letters, digits or any of _ - .")
    limit = number(f"{path}.limit", 5000 if given.limit is None else given.limit, 1, MAX_TEXT)
    return NewBlock(
        label=given.label,
        value=text(f"{path}.value", given.value, at_least=0, at_most=limit),
        description=optional_text(f"{path}.description", given.description, at_least=0, at_most=MAX_DESCRIPTION),
        limit=limit,
        read_only=bool(given.read_only),
    )


def _tools(given: Sequence[AgentToolInput]) -> tuple[AgentTool, ...]:
    amount("input.tools", len(given), "tools", 0, _MAX_TOOLS)
    _unique("input.tools", "name", (tool.name for tool in given))
    return tuple(
        AgentTool(name=text(f"input.tools[{i}].name", tool.name, at_most=MAX_NAME), requires_approval=tool.requires_approval)
        for i, tool in enumerate(given)
    )


def _unique(path: str, field: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for i, value in enumerate(values):
        if value in seen:
            raise BadUserInput(f"{path}[{i}].{field}", "is there twice")
        seen.add(value)
