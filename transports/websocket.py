"""graphql-transport-ws: any number of operations over one socket, each with a task and a context of its own.

    OPEN    connection_init → the context says whether the client is welcome → connection_ack, READY
            subscribe → close 4401   no connection_init in time → close 4408
    READY   subscribe → an operation: next*, then complete or error   complete → the operation is cancelled
            connection_init → close 4429   subscribe with an id in use → close 4409
    both    ping → pong   pong → nothing   anything else → close 4400   drain → close 1012

An error in an operation ends that operation alone. A socket that ends, however it does, ends its operations first.
Sending waits for the transport, so no operation runs ahead of its client.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send
from strawberry.http import GraphQLRequestData
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types.execution import ExecutionResult

from transports.closing import Close, Closing, Gone
from transports.operation import Malformed, decode, json_object, read_operation
from transports.outcome import Refused, encode, error, masked, payload, rejected, report
from transports.terms import Terms

# A client that has stopped reading does not get to hold up the end of its socket.
CLOSE_TIMEOUT_S = 0.3


class Socket:
    def __init__(self, terms: Terms, scope: Scope, receive: Receive, send: Send) -> None:
        self._terms = terms
        self._connection = HTTPConnection(scope)
        self._asgi_receive = receive
        self._asgi_send = send
        self._params: Mapping[str, Any] | None = None
        self._ready = False
        self._tasks = asyncio.TaskGroup()
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._ending: Closing | Gone | None = None
        self._conversation: asyncio.Timeout | None = None

    async def serve(self) -> None:
        try:
            await self._accept()
            async with self._tasks:
                await self._converse()
                for operation in self._operations.values():
                    operation.cancel()
            await self._tell_ending()
        except Gone:
            return

    def end(self, ending: Closing) -> None:
        """Ends the conversation from outside its own task. Whoever is first to end it gives the reason that is told."""
        if self._ending is None:
            self._ending = ending
            if self._conversation is not None:
                self._conversation.reschedule(0)

    async def _accept(self) -> None:
        await self._asgi_receive()
        spoken = GRAPHQL_TRANSPORT_WS_PROTOCOL in self._connection.scope["subprotocols"]
        await self._put({"type": "websocket.accept", "subprotocol": GRAPHQL_TRANSPORT_WS_PROTOCOL if spoken else None})
        if not spoken:
            self.end(Closing(Close.SUBPROTOCOL))

    async def _converse(self) -> None:
        """Takes message after message until `_ending` says why no more."""
        init_timer = asyncio.get_running_loop().call_later(self._terms.init_timeout_s, self._end_uninitialised)
        try:
            async with asyncio.timeout(None) as self._conversation:
                while self._ending is None:
                    await self._take(await self._receive())
        except TimeoutError:  # from `end`, which has left its reason
            pass
        except Malformed as malformed:
            self._ending = self._ending or Closing(Close.INVALID, str(malformed))
        except (Closing, Gone) as ending:
            self._ending = self._ending or ending
        finally:
            self._conversation = None
            init_timer.cancel()

    def _end_uninitialised(self) -> None:
        if not self._ready:
            self.end(Closing(Close.INIT_TIMEOUT))

    async def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "connection_init"}:
                await self._initialise(message.get("payload"))
            case {"type": "ping"}:
                await self._send({"type": "pong"})
            case {"type": "pong"}:
                pass
            case {"type": "subscribe", "id": str(id_), "payload": dict()} if id_:
                await self._subscribe(id_, message["payload"])
            case {"type": "complete", "id": str(id_)}:
                self._complete(id_)
            case _:
                raise Closing(Close.INVALID)

    async def _initialise(self, params: object) -> None:
        if self._ready:
            raise Closing(Close.TOO_MANY_INITS)
        self._params = None if params is None else json_object(params, "`payload`")
        await self._welcome()
        self._ready = True
        await self._send({"type": "connection_ack"})

    async def _welcome(self) -> None:
        try:
            await self._terms.context_of(self._connection, self._params)
        except Refused as refused:
            raise Closing(Close[refused.code]) from None
        except Exception as bug:  # noqa: BLE001 whatever it is, it is reported, and the client may come again
            report(bug)
            raise Closing(Close.TRY_AGAIN) from None

    async def _subscribe(self, id_: str, request: dict[str, Any]) -> None:
        if not self._ready:
            raise Closing(Close.UNAUTHENTICATED)
        operation = read_operation(request)
        if id_ in self._operations:
            raise Closing(Close.DUPLICATE_ID)
        if len(self._operations) >= self._terms.max_operations_per_socket:
            await self._send(_errors(id_, error("TOO_MANY_SUBSCRIPTIONS", "Too many operations on this socket")))
        else:
            self._operations[id_] = self._tasks.create_task(self._operate(id_, operation), name=f"operation {id_}")

    def _complete(self, id_: str) -> None:
        # An unknown id is no mistake: the operation may have ended while this was on its way.
        if operation := self._operations.pop(id_, None):
            operation.cancel()

    async def _operate(self, id_: str, operation: GraphQLRequestData) -> None:
        try:
            last = await self._run(id_, operation)
            # The id is free before its client learns that it is, and so may use it again.
            del self._operations[id_]
            await self._send_text(last)
        except Refused as refused:
            self.end(Closing(Close[refused.code]))
        except Gone:
            return

    async def _run(self, id_: str, operation: GraphQLRequestData) -> str:
        """Sends what the operation yields, and returns the message that ends it."""
        try:
            return encode(await self._send_results(id_, operation))
        except (Refused, Gone):
            raise
        except Exception as bug:  # noqa: BLE001 one operation's bug is not the end of the others; `masked` reports it
            return encode(_errors(id_, masked(bug)))

    async def _send_results(self, id_: str, operation: GraphQLRequestData) -> Message:
        results = await self._terms.schema.stream(
            operation.query,
            variable_values=operation.variables,
            context_value=await self._terms.context_of(self._connection, self._params),
            operation_name=operation.operation_name,
            operation_extensions=operation.extensions,
        )
        async with aclosing(results):
            async for result in results:
                assert isinstance(result, ExecutionResult), "the schema has no @defer and no @stream"
                if rejected(result):
                    return _errors(id_, *payload(result)["errors"])
                await self._send({"id": id_, "type": "next", "payload": payload(result)})
        return {"id": id_, "type": "complete"}

    async def _receive(self) -> dict[str, Any]:
        event = await self._asgi_receive()
        if event["type"] == "websocket.disconnect":
            raise Gone
        if event.get("text") is None:
            raise Closing(Close.INVALID, "Frames must be text")
        return json_object(decode(event["text"]), "A message")

    async def _send(self, message: Message) -> None:
        await self._send_text(encode(message))

    async def _send_text(self, text: str) -> None:
        await self._put({"type": "websocket.send", "text": text})

    async def _put(self, event: Message) -> None:
        try:
            await self._asgi_send(event)
        except (OSError, RuntimeError) as gone:  # what servers raise for a socket that has closed meanwhile
            raise Gone from gone

    async def _tell_ending(self) -> None:
        if isinstance(self._ending, Closing):
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._put({"type": "websocket.close", "code": self._ending.code, "reason": self._ending.reason})
            except TimeoutError:
                raise Gone from None


def _errors(id_: str, *errors: dict[str, Any]) -> Message:
    return {"id": id_, "type": "error", "payload": errors}
