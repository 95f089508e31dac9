"""All open sockets of a process, so that they can be told when it stops."""

import asyncio

from starlette.types import Receive, Scope, Send

from transports.closing import Close, Closing
from transports.terms import Terms
from transports.websocket import Socket


class Sockets:
    """The ASGI application that serves one socket, any number of times; owned by whoever drains it."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._open: set[Socket] = set()
        self._none_open = asyncio.Event()
        self._draining = False
        terms.metrics.sockets.set_function(lambda: len(self._open))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = Socket(self._terms, scope, receive, send)
        self._open.add(socket)
        if self._draining:
            socket.end(Closing(Close.RESTART))
        try:
            await socket.serve()
        finally:
            self._open.remove(socket)
            if not self._open:
                self._none_open.set()

    async def drain(self) -> None:
        """Closes every socket with 1012, also those that come later; returns when the last one open now has ended its operations."""
        self._draining = True
        for socket in self._open:
            socket.end(Closing(Close.RESTART))
        if self._open:
            self._none_open.clear()
            await self._none_open.wait()
