"""What only shows on a real connection: a client that reads slowly or not at all."""

import asyncio
import base64
import os
import socket

from structlog.testing import capture_logs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.transports.counting import World, schema
from tests.transports.serving import DEADLINE_S, Served, serving
from transports.terms import Terms

SIZE = 64 * 1024
TIMES = 2000  # 128 MB, far beyond what the buffers of two sockets hold
FLOOD = 'subscription($times: Int!, $size: Int!) { flood(name: "a", times: $times, size: $size) }'


def slow_socket(port: int) -> socket.socket:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SIZE)
    slow.connect(("127.0.0.1", port))
    slow.setblocking(False)
    return slow


async def settled(served: Served) -> int:
    """How far the flood has come when it comes no further, though the server has had time for it: it went on answering others."""
    counter = served.world.counters["a"]
    async with asyncio.timeout(DEADLINE_S):
        while True:
            before = counter.yielded
            for _ in range(20):
                await served.http.post("/graphql", json={"query": "{ actor }"})
            if counter.yielded == before:
                return before


async def test_a_client_that_does_not_read_is_not_produced_for(served: Served) -> None:
    async with served.ready(sock=slow_socket(served.port), max_queue=1) as client:
        await client.subscribe("a", FLOOD, variables={"times": TIMES, "size": SIZE})
        async with asyncio.timeout(DEADLINE_S):
            while not served.world.counters["a"].yielded:
                await client.receive()
        assert await settled(served) < TIMES // 4
        for _ in range(TIMES - 1):
            assert (await client.receive())["type"] == "next"
        assert (await client.receive())["type"] == "complete"


async def test_a_client_that_does_not_read_can_be_drained(served: Served) -> None:
    async with served.ready(sock=slow_socket(served.port), max_queue=1, close_timeout=0) as client:
        await client.subscribe("a", FLOOD, variables={"times": TIMES, "size": SIZE})
        await client.receive()
        await settled(served)
        async with asyncio.timeout(DEADLINE_S):
            await served.sockets.drain()
        assert served.world.counters["a"].ended.is_set()
        client.connection.transport.abort()


async def test_a_socket_that_is_closed_below_us_while_we_send_is_no_bug(served: Served) -> None:
    with capture_logs() as logs:
        async with served.ready() as client:
            await client.subscribe("a", FLOOD, variables={"times": 1_000_000, "size": 10})
            await client.receive()
            await client.send({"too much": "x" * 20_000})
            assert (await client.closed())[0] == 1009
        async with asyncio.timeout(DEADLINE_S):
            await served.sockets.drain()
    assert served.world.counters["a"].ended.is_set()
    assert logs == []


async def test_a_client_that_answers_no_ping_is_cut_off_without_a_verdict() -> None:
    world = World()
    terms = Terms(schema=schema, context_of=world.context_of)
    async with serving(world, terms, ws_ping_interval=0.05, ws_ping_timeout=0.05) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )
        async with asyncio.timeout(DEADLINE_S):
            await reader.readuntil(b"\r\n\r\n")
            frames = await reader.read()
        writer.close()
        assert (frames[0], len(frames)) == (0x89, 6), "a ping, and then the end: no close frame"


async def test_an_idle_connection_is_left_to_the_client_to_close(served: Served) -> None:
    """Were the server the first, a POST would now and then meet a connection that is just being closed. Proxies wait up to 600 s."""
    await served.http.post("/graphql", json={"query": "{ actor }"})
    [kept] = served.server.server_state.connections
    assert isinstance(kept, HttpToolsProtocol)
    assert kept.timeout_keep_alive_task is not None
    assert kept.timeout_keep_alive_task.when() - asyncio.get_running_loop().time() > 600
