"""A tool that tells the time."""

from collections.abc import Callable
from datetime import datetime

from runs.tools.registry import Arguments, ServerTool, ToolContext


def current_time(clock: Callable[[], datetime]) -> ServerTool:
    async def run(_arguments: Arguments, _context: ToolContext) -> str:
        return clock().isoformat(timespec="seconds")

    return ServerTool(
        name="current_time",
        description="The current date and time, in UTC.",
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
        run=run,
    )
