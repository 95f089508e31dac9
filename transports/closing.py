"""How a socket ends: the codes of graphql-transport-ws, and those of WebSockets that a client takes as an invitation to come back.

1011 and 4500 are not among them: after those graphql-ws never connects again.
"""

from enum import Enum


class Close(Enum):
    """Why a socket is closed: the code and the reason that its client is told."""

    RESTART = 1012, "Service restart"
    TRY_AGAIN = 1013, "Try again later"
    INVALID = 4400, "Invalid message"
    UNAUTHENTICATED = 4401, "Unauthorized"
    FORBIDDEN = 4403, "Forbidden"
    SUBPROTOCOL = 4406, "Subprotocol not acceptable"
    INIT_TIMEOUT = 4408, "Connection initialisation timeout"
    DUPLICATE_ID = 4409, "Subscriber already exists"
    TOO_MANY_INITS = 4429, "Too many initialisation requests"


class Closing(Exception):
    def __init__(self, close: Close, reason: str | None = None) -> None:
        super().__init__(close.name)
        self.code, self.reason = close.value[0], reason or close.value[1]


class Gone(Exception):
    """The client is not there any more: there is nobody to tell anything."""
