"""`python -m tests.runs.tools.mcp.workshop NOTES [PORT]`: a tool server as its author would write one, over stdio or HTTP.

It notes what befalls it, line by line, in a file that a test reads. With LEGACY in its environment it is one of those that know
nothing of the protocol's newest age.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server import Server
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("workshop")
notes = Path(sys.argv[1])


def note(line: str) -> None:
    with notes.open("a") as file:
        file.write(f"{line}\n")


@server.tool()
def saw(wood: str) -> str:
    """Saws wood in two."""
    note(f"sawed {wood}")
    return f"two halves of {wood}"


@server.tool()
def current_time() -> str:
    """A name that somebody else may have, too."""
    return "workshop o'clock"


@server.tool()
def measure(width: float) -> dict[str, float]:
    """Answers with structure."""
    return {"width": width}


@server.tool(structured_output=False)
def draw() -> list[Any]:
    """Answers with a picture, too."""
    return ["Here it is.", Image(data=b"\x89PNG", format="png")]


@server.tool()
def drop() -> str:
    """Fails."""
    raise ToolError("It fell on the floor.")


@server.tool(name="glue.wood")
def glue() -> str:
    """Has a name that no provider takes."""
    return "glued"


@server.tool()
def age(context: Context) -> str:
    """Which version of the protocol is spoken."""
    return str(context.protocol_version)


@server.tool()
def environment() -> str:
    """What it was given, and what it was not."""
    return " ".join(sorted(os.environ))


@server.tool()
def told(context: Context) -> str:
    """What the one who asks has said in a header."""
    return (context.headers or {}).get("x-key", "nothing")


@server.tool()
async def dry() -> str:
    """Takes for ever."""
    note("drying")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note("stopped drying")
        raise
    return "dry"


@server.tool()
async def learn(name: str, context: Context) -> str:
    """Adds a tool."""

    def skill() -> str:
        return f"{name}, as learned"

    server.add_tool(skill, name=name, description="Learned.")
    await context.notify_tools_changed()
    if "LEGACY" in os.environ:
        await context.session.send_tool_list_changed()
    return "learned"


# ---- as servers were before the protocol's newest age


async def serve_by_handshake() -> None:
    inner: Server[Any] = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
    async with stdio_server() as (incoming, outgoing), inner.lifespan(inner) as state:
        await serve_loop(inner, incoming, outgoing, lifespan_state=state, init_options=inner.create_initialization_options())


def refusing_what_is_new(application: ASGIApp) -> ASGIApp:
    async def refuse_or_pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        new = scope["type"] == "http" and Headers(scope=scope).get("mcp-protocol-version", "") > "2026"
        await (Response("What version?", 400)(scope, receive, send) if new else application(scope, receive, send))

    return refuse_or_pass_on


def main() -> None:
    note(f"pid {os.getpid()}")
    old = "LEGACY" in os.environ
    if len(sys.argv) > 2:
        application = server.streamable_http_app()
        uvicorn.run(refusing_what_is_new(application) if old else application, port=int(sys.argv[2]), access_log=False)
    elif old:
        asyncio.run(serve_by_handshake())
    else:
        server.run()


if __name__ == "__main__":
    main()
