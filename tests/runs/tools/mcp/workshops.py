"""The workshop (`workshop.py`) as a process that is spoken to in one way or the other, and what a test does to it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.ports import free_port
from cluster.programs import ROOT, Program
from runs.tools.mcp import endpoints
from runs.tools.mcp.endpoints import Address, McpServer, Patience
from runs.tools.mcp.servers import McpServers
from runs.tools.registry import ServerTool, ToolRegistry
from tests.runs.logs import eventually

SECRET = "hunter2-hunter2"
QUICK = Patience(connect_s=40, first_delay_s=0.05, longest_delay_s=0.2, start_s=40)
TOOLS = ["saw", "current_time", "measure", "draw", "drop", "glue_wood", "age", "environment", "told", "dry", "learn"]


@dataclass(kw_only=True)
class Workshop:
    """`program` None: whoever speaks to it starts it, over stdio."""

    notes: Path
    environment: dict[str, str]
    port: int = 0
    program: Program | None = None
    name: str = "workshop"
    old: bool = field(default=False)

    def server(self, *, timeout_s: float = 60, requires_approval: bool = False) -> McpServer:
        reached = (
            endpoints.Program(command=sys.executable, args=("-m", "tests.runs.tools.mcp.workshop", str(self.notes)), env=self.environment)
            if self.program is None
            else Address(url=f"http://127.0.0.1:{self.port}/mcp", headers={"X-Key": SECRET})
        )
        return McpServer(name=self.name, reached=reached, timeout_s=timeout_s, requires_approval=requires_approval)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    async def has_noted(self, line: str, *, times: int = 1) -> None:
        async def is_there() -> bool:
            return self.noted().count(line) >= times

        await eventually(is_there, seconds=20)

    @property
    def pid(self) -> int:
        return int([line for line in self.noted() if line.startswith("pid ")][-1].removeprefix("pid "))

    async def kill(self) -> None:
        if self.program is None:
            os.kill(self.pid, signal.SIGKILL)
        else:
            await self.program.kill()

    async def return_(self) -> None:
        """A server that is spoken to over stdio is started again by whoever misses it."""
        if self.program is not None:
            await self.program.start()


@asynccontextmanager
async def workshop(folder: Path, *, over: str, old: bool = False, name: str = "workshop", starts: bool = True) -> AsyncGenerator[Workshop]:
    """`starts` False: over HTTP, it is not there yet."""
    notes, environment = folder / f"{name}.notes", {"PYTHONPATH": str(ROOT)} | ({"LEGACY": "1"} if old else {})
    if over == "stdio":
        yield Workshop(notes=notes, environment=environment, name=name, old=old)
        return
    port = free_port()
    command = [sys.executable, "-m", "tests.runs.tools.mcp.workshop", str(notes), str(port)]
    program = Program(name, command, environment, ready="Uvicorn running", passes_on=False)
    try:
        if starts:
            await program.start()
        yield Workshop(notes=notes, environment=environment, port=port, program=program, name=name, old=old)
    finally:
        await program.kill()


@asynccontextmanager
async def offered(registry: ToolRegistry, servers: Iterable[McpServer], patience: Patience = QUICK) -> AsyncGenerator[ToolRegistry]:
    """What these servers have is in the registry, and follows them."""
    machine = McpServers(servers, registry, patience)
    running = asyncio.create_task(machine.run(), name="tool servers")
    try:
        await machine.tried()
        yield registry
    finally:
        running.cancel()
        await asyncio.wait({running})


async def comes(registry: ToolRegistry, name: str) -> ServerTool:
    async def is_there() -> bool:
        return registry.get(name) is not None

    await eventually(is_there, seconds=20)
    found = registry.get(name)
    assert found is not None
    return found
