"""A model provider on loopback that speaks OpenAI's chat-completions protocol over real HTTP, and answers as a test tells it.

It can also say no, cut the connection in the middle, stall, and wait for the test before any chunk. Requests take the scripted
answers in the order they come; when there is none left, `otherwise` answers (at first: an echo of the last user message). What
came in is in `requests`, and the requests whose client left before the end in `disconnects`.
"""

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How an answer reaches the client. Counts are of server-sent events, from 0; of an `Answer` the first one says only the role.

    `gates`: an event is sent when its gate is open. `write_size`: bytes sent at a time, whatever they cut through.
    `cut_after`: the connection is reset; with `politely`, the body just ends, as behind a proxy that hides the cut.
    `stall_after`: nothing more comes until the client leaves. `paced_s`: between two events.
    With `status` other than 200, `error` is all there is.
    """

    status: int = 200
    error: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    gates: Mapping[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])
    write_size: int | None = None
    cut_after: int | None = None
    politely: bool = False
    stall_after: int | None = None
    paced_s: float = 0

    def events(self, request: Request) -> list[str]:
        """The server-sent events, without the blank line after each."""
        raise NotImplementedError(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events(Delivery):
    """An answer in any protocol: its server-sent events as they are."""

    of: Sequence[str]

    def events(self, request: Request) -> list[str]:  # noqa: ARG002  (part of the signature)
        return list(self.of)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `arguments` is JSON text, or not, as the test likes."""

    name: str
    arguments: str = "{}"
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Delivery):
    """A chat completion. Texts are cut into pieces of `chunk_size` characters, or given in pieces; calls come interleaved.

    `escaped`: JSON with \\u escapes, the only way to send half a surrogate pair. `usage` None: not reported.
    """

    reasoning: str | Sequence[str] = ""
    reasoning_field: str = "reasoning_content"
    text: str | Sequence[str] = ""
    tool_calls: Sequence[Call] = ()
    chunk_size: int = 8
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = field(default_factory=lambda: USAGE)
    escaped: bool = False

    def events(self, request: Request) -> list[str]:
        finish = self.finish_reason or ("tool_calls" if self.tool_calls else "stop")
        chunks = [self._chunk(request, delta) for delta in self._deltas()] + [self._chunk(request, {}, finish)]
        if self.usage is not None:
            chunks.append(self._chunk(request, None) | {"usage": self.usage})
        return [f"data: {json.dumps(chunk, ensure_ascii=self.escaped)}" for chunk in chunks] + ["data: [DONE]"]

    def _chunk(self, request: Request, delta: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": request.body["model"], "choices": choices}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        for piece in self._pieces(self.reasoning):
            yield {self.reasoning_field: piece}
        for piece in self._pieces(self.text):
            yield {"content": piece}
        for index, call in enumerate(self.tool_calls):
            function = {"name": call.name, "arguments": ""}
            yield {"tool_calls": [{"index": index, "id": call.id or f"call_{index}", "type": "function", "function": function}]}
        for round_ in zip_longest(*(self._pieces(call.arguments) for call in self.tool_calls)):
            for index, piece in enumerate(round_):
                if piece is not None:
                    yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _pieces(self, text: str | Sequence[str]) -> Iterator[str]:
        if not isinstance(text, str):
            return iter(text)
        return (text[start : start + self.chunk_size] for start in range(0, len(text), self.chunk_size))


def said(request: Request) -> str:
    """The text of the last user message; "" when there is none."""
    content = next((message["content"] for message in reversed(request.body["messages"]) if message["role"] == "user"), "")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def echo(request: Request) -> Delivery:
    return Answer(text=f"You said: {said(request)}")


class _Gone(Exception):
    """The client left before the answer was complete."""


class _Reader(asyncio.StreamReader):
    """Tells that the client has left without reading on, so that the connection stays usable when it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


class Provider:
    """`async with Provider() as provider`: it listens on `provider.base_url`."""

    def __init__(self, otherwise: Callable[[Request], Delivery] = echo) -> None:
        self.otherwise = otherwise
        self.requests: list[Request] = []
        self.disconnects: list[Request] = []
        self._answers = deque[Delivery]()
        self._connections = set[asyncio.Task[None]]()
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._protocol, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Without the path, for clients that bring their own."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def script(self, *answers: Delivery) -> None:
        self._answers.extend(answers)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        """Waits for `requests` or `disconnects` to be as the test wants them. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = _Reader()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer), name="stub provider connection")
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return asyncio.StreamReaderProtocol(reader, connected)

    async def _serve(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while request := await _read_request(reader):
                await self._note(self.requests, request)
                answer = self._answers.popleft() if self._answers else self.otherwise(request)
                try:
                    await _send(answer, request, reader.gone, writer)
                except (_Gone, ConnectionError):
                    await self._note(self.disconnects, request)
                    return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _note(self, log: list[Request], request: Request) -> None:
        async with self._changed:
            log.append(request)
            self._changed.notify_all()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Request(path=first.split()[1], headers=headers, body=json.loads(body or b"null"))


async def _send(answer: Delivery, request: Request, gone: asyncio.Event, writer: asyncio.StreamWriter) -> None:
    if answer.status != 200:
        return await _refuse(answer, writer)
    _head(writer, 200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **answer.headers})
    for number, event in enumerate([*answer.events(request), None]):
        if number in answer.gates:
            await _whichever_first(answer.gates[number], gone)
        if answer.paced_s:
            await asyncio.sleep(answer.paced_s)
        if number == answer.stall_after:
            await gone.wait()
        if gone.is_set():
            raise _Gone
        if number == answer.cut_after and not answer.politely:
            return writer.transport.abort()
        if event is None or number == answer.cut_after:
            break
        await _write(writer, f"{event}\n\n".encode(), answer.write_size)
    writer.write(b"0\r\n\r\n")
    return await writer.drain()


async def _refuse(answer: Delivery, writer: asyncio.StreamWriter) -> None:
    error = answer.error or {"error": {"message": f"the stub answers {answer.status}", "type": "stub", "code": None}}
    body = json.dumps(error).encode()
    _head(writer, answer.status, {"content-type": "application/json", "content-length": str(len(body)), **answer.headers})
    writer.write(body)
    await writer.drain()


def _head(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} Stub", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


async def _write(writer: asyncio.StreamWriter, data: bytes, size: int | None) -> None:
    """One HTTP chunk for every `size` bytes: the client gets them apart even when the network puts them together."""
    for start in range(0, len(data), size or len(data)):
        piece = data[start : start + (size or len(data))]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()


async def _whichever_first(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
