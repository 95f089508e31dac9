"""A real server on a free port of the loopback, in the test's own event loop, and a client for its sockets."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import orjson
import pytest
import uvicorn
from httpx2 import AsyncClient
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.transports.counting import World
from transports import explorer
from transports.endpoint import Endpoint
from transports.sockets import Sockets
from transports.terms import Terms
from transports.wire import uvicorn_options

DEADLINE_S = 20.0


@dataclass(frozen=True)
class Served:
    port: int
    world: World
    sockets: Sockets
    http: AsyncClient
    server: uvicorn.Server

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncGenerator["Client"]:
        """A socket that is open and has said nothing yet."""
        options = {"subprotocols": [Subprotocol("graphql-transport-ws")], "compression": None, "max_size": None, **options}
        async with connect(f"ws://127.0.0.1:{self.port}/graphql", **options) as connection:
            yield Client(connection)

    @asynccontextmanager
    async def ready(self, params: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator["Client"]:
        async with self.open(**options) as client:
            yield await client.init(params)


class Client:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def init(self, params: Mapping[str, Any] | None = None) -> Self:
        await self.send({"type": "connection_init", "payload": params or {}})
        assert await self.receive() == {"type": "connection_ack"}
        return self

    async def send(self, message: object) -> None:
        await self.connection.send(orjson.dumps(message).decode())

    async def subscribe(self, id_: str, query: str, **request: Any) -> None:
        await self.send({"id": id_, "type": "subscribe", "payload": {"query": query, **request}})

    async def receive(self) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            frame = await self.connection.recv()
        assert isinstance(frame, str), "frames are text"
        return orjson.loads(frame)

    async def closed(self) -> tuple[int, str]:
        """Waits for the server to close, and tells with what; everything else that it says before is dropped."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else pytest.fail("cut off without a close frame")


@asynccontextmanager
async def serving(world: World, terms: Terms, **options: Any) -> AsyncGenerator[Served]:
    sockets = Sockets(terms)
    endpoint = Endpoint(terms, sockets=sockets, page=explorer.page())
    routes = [
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", endpoint),
        Mount("/graphql/assets", explorer.assets()),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), log_config=None, lifespan="off", **{**uvicorn_options(terms.max_request_bytes), **options}
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # asyncio turns Nagle's delay off for sockets that say they are TCP, which those of `socket.create_server` do not.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        # Its parts rather than `serve`, which would take the signals of the test run and look for its end ten times a second only.
        await server.startup(sockets=[listener])
        port = listener.getsockname()[1]
        async with AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as http:
            yield Served(port, world, sockets, http, server)
        await server.shutdown(sockets=[listener])
