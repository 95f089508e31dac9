"""The tools of one run: the agent's, and those of the request, which the client runs itself. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llm.model import ToolDefinition
from runs.tools.registry import ServerTool, ToolRegistry
from vocabulary.conversations import AgentTool
from vocabulary.messages import ToolSource
from vocabulary.runs import ClientTool


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTool:
    """`server` None: the client runs it."""

    name: str
    description: str
    parameters: dict[str, Any]
    requires_approval: bool
    source: ToolSource
    server: ServerTool | None

    def definition(self) -> ToolDefinition:
        return ToolDefinition(self.name, self.description, self.parameters)


Toolbox = dict[str, GivenTool]


def toolbox(registry: ToolRegistry, agents: Iterable[AgentTool], clients: Iterable[ClientTool]) -> Toolbox:
    """By name; a client's tool takes the place of the server's. What an agent was given and is no longer there is left out."""
    found = ((given, registry.get(given.name)) for given in agents)
    servers = {given.name: _of_server(tool, given.requires_approval) for given, tool in found if tool is not None}
    return servers | {tool.name: _of_client(tool) for tool in clients}


def _of_server(tool: ServerTool, requires_approval: bool | None) -> GivenTool:
    return GivenTool(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        requires_approval=tool.requires_approval if requires_approval is None else requires_approval,
        source=tool.source,
        server=tool,
    )


def _of_client(tool: ClientTool) -> GivenTool:
    return GivenTool(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        requires_approval=tool.requires_approval,
        source=ToolSource.CLIENT,
        server=None,
    )
