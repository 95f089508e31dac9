"""The end of a socket that touches the network: uvicorn's, told what it does by default and clients would suffer from."""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

IDLE_S = 620
"""How long an HTTP connection is kept that asks nothing: longer than clients and proxies in common use keep it (Google's: 600 s).

httpx waits five seconds, as uvicorn does by itself: now and then a POST would meet a connection that is just being closed.
"""


class Wire(WebSocketsSansIOProtocol):
    def keepalive_timeout(self) -> None:
        # uvicorn closes with 1011 here, after which graphql-ws never connects again: a laptop that was asleep would stay cut off.
        self.transport.abort()


def uvicorn_options(max_request_bytes: int) -> dict[str, Any]:
    """What `uvicorn.Config` must be given to serve an `Endpoint`. Deflating every small frame would cost more than it saves."""
    return {"ws": Wire, "ws_max_size": max_request_bytes, "ws_per_message_deflate": False, "timeout_keep_alive": IDLE_S}
