"""All tool servers of the settings, and what they offer to agents: wherever the tools' names are needed, not only where they are called.

Where two have a tool of the same name, the one that stands first in the settings keeps it, whichever was reached first:
so a name means the same tool in every process that has reached the same servers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from runs.tools.mcp.endpoints import McpServer, Patience
from runs.tools.mcp.server import RemoteServer
from runs.tools.registry import ToolRegistry


class McpServers:
    def __init__(
        self,
        servers: Iterable[McpServer],
        registry: ToolRegistry,
        patience: Patience | None = None,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`pause` waits so many seconds before a server is tried again."""
        self._registry = registry
        self._patience = patience or Patience()
        self._servers = [RemoteServer(server, self._patience, changed=self._offer, pause=pause) for server in servers]

    async def run(self) -> None:
        """Until cancelled, if there is any; leaves no process behind that was started here."""
        async with asyncio.TaskGroup() as machines:
            for server in self._servers:
                machines.create_task(server.run(), name=f"mcp {server.name}")

    async def tried(self) -> None:
        """Returns when the tools of each are known, or cannot be had at once or soon: so that the first runs do not miss them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience.start_s):
                for server in self._servers:
                    await server.tried.wait()

    def _offer(self) -> None:
        """Nobody sees the registry between two of these lines."""
        for server in self._servers:
            self._registry.offer(server.name, ())
        for server in self._servers:
            self._registry.offer(server.name, server.tools)
