"""The proxy before replicas that are not Parley: what any of them may do to a connection, and what becomes of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from httpx2 import AsyncClient

from cluster.ports import free_port
from cluster.programs import started
from cluster.topology import HOST, Proxy

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DEADLINE_S = 20.0


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


@asynccontextmanager
async def replica(answer: Answer) -> AsyncGenerator[str]:
    """Answers probes with ok, and everything else so. Its host:port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /readyz"):
                    writer.write(OK)
                else:
                    await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def before(home: Path, *replicas: str) -> AsyncGenerator[AsyncClient]:
    async with started(Proxy(free_port(), replicas, home)) as proxy, AsyncClient(timeout=DEADLINE_S) as http:
        http.base_url = proxy.url
        yield http


async def test_an_event_is_passed_on_before_the_stream_goes_on(tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk("data: one\n\n"))
        async with asyncio.timeout(DEADLINE_S):
            await heard.wait()
        writer.write(chunk("data: two\n\n") + chunk(""))

    async with replica(answer) as address, before(tmp_path, address) as http, http.stream("GET", "") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "data: one"
        heard.set()
        assert [line async for line in lines if line] == ["data: two"]


async def test_a_post_goes_to_the_next_when_one_refuses_the_connection(tmp_path: Path) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with replica(answer) as address, before(tmp_path, f"{HOST}:{free_port()}", address) as http:
        assert [(await http.post("")).status_code for _ in range(6)] == [200] * 6


async def test_a_post_that_a_replica_has_taken_is_not_sent_to_another(tmp_path: Path) -> None:
    """Whether it was done nobody knows but the client's own key."""
    asked: list[str] = []

    async def dies(writer: asyncio.StreamWriter) -> None:
        asked.append("one")
        writer.close()

    async with replica(dies) as first, replica(dies) as second, before(tmp_path, first, second) as http:
        assert (await http.post("")).status_code == 502
        assert len(asked) == 1
