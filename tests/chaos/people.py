"""People at work while things break: each talks in one conversation, says it again until it is acknowledged, and follows what comes.

A person who loses a connection goes to another replica with the last number seen. Nothing here knows what was broken, or when.
"""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.e2e.client import FOLLOW, SEND, TERMINAL, Client, Socket, Transcript

PAUSE_S = 0.1
GONE = (ConnectionError, OSError, TimeoutError, WebSocketException)
NO_ANSWER = (httpx2.HTTPError, json.JSONDecodeError)
TRANSIENT = "INTERNAL_SERVER_ERROR"
"""What is answered while the database is away; every other refusal is a mistake, here of the server's."""


@dataclass(slots=True)
class Person:
    """`replicas`: clients of each API process. `acknowledged`: by what was said, the run that answers it."""

    conversation_id: str
    replicas: Sequence[Client]
    transcript: Transcript
    deltas: str
    acknowledged: dict[str, str] = field(default_factory=dict[str, str])
    said: list[str] = field(default_factory=list[str])
    losses: Counter[str] = field(default_factory=Counter[str])
    socket: Socket | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def says(self, text: str) -> str:
        """Its run, once a replica has acknowledged it; until then it is said again, as the same request."""
        self.said.append(text)
        given = {"conversationId": self.conversation_id, "messages": [{"text": text}], "idempotencyKey": f"saying {len(self.said)}"}
        while True:
            try:
                answer = await random.choice(self.replicas).answer(SEND, input=given)
            except NO_ANSWER as error:
                self.losses[f"send: {type(error).__name__}"] += 1
            else:
                if "errors" not in answer:
                    run_id: str = answer["data"]["sendMessage"]["run"]["id"]
                    self.acknowledged[text] = run_id
                    return run_id
                self._count("send", answer["errors"])
            await asyncio.sleep(PAUSE_S)

    async def is_writing(self) -> None:
        """Something of an answer has come, and not its end."""
        await self.until(lambda: any(self._is_open(message) for message in self.transcript.messages.values()))

    async def has_seen_the_end_of(self, run_id: str) -> None:
        await self.until(lambda: self.transcript.runs.get(run_id, {}).get("status") in TERMINAL)

    async def has_come_to(self, position: int) -> None:
        await self.until(lambda: self.transcript.position >= position)

    async def until(self, condition: Any) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def follows(self) -> None:
        """For ever, from one replica to the next."""
        for client in itertools.cycle(self.replicas):
            try:
                await self._follow(client)
            except* ConnectionClosed as closed:
                self.losses.update(f"stream: closed with {close_code(error)}" for error in closed.exceptions)
            except* GONE as gone:
                self.losses.update(f"stream: {type(error).__name__}" for error in gone.exceptions)
            await asyncio.sleep(PAUSE_S * random.random())

    async def stops_reading(self, seconds: float) -> None:
        """What comes meanwhile piles up in the connection."""
        assert self.socket is not None
        transport = self.socket.connection.transport
        transport.pause_reading()
        await asyncio.sleep(seconds)
        if not transport.is_closing():
            transport.resume_reading()

    async def _follow(self, client: Client) -> None:
        async with client.socket() as socket:
            self.socket = socket
            operation = await socket.start(FOLLOW, id=self.conversation_id, after=self.transcript.position, deltas=self.deltas)
            while True:
                frame = await operation.frames.get()
                match frame["type"]:
                    case "next":
                        assert "errors" not in frame["payload"], frame
                        await self._take(frame["payload"]["data"]["conversationEvents"])
                    case "error":
                        return self._count("stream", frame["payload"])
                    case _:
                        self.losses[f"stream: closed with {socket.connection.close_code}"] += 1
                        return None

    async def _take(self, item: dict[str, Any]) -> None:
        self.transcript.take(item)
        async with self._changed:
            self._changed.notify_all()

    def _count(self, of: str, errors: list[dict[str, Any]]) -> None:
        codes = [error["extensions"]["code"] for error in errors]
        assert codes == [TRANSIENT], errors
        self.losses[f"{of}: {TRANSIENT}"] += 1

    def _is_open(self, message: dict[str, Any]) -> bool:
        return message["type"] == "ASSISTANT" and message["status"] == "IN_PROGRESS" and message["text"] != ""


def close_code(error: BaseException) -> int:
    """The server's, or 1006 where it gave none. A connection that is closed before its first operation raises when it is used."""
    return error.rcvd.code if isinstance(error, ConnectionClosed) and error.rcvd else 1006


@asynccontextmanager
async def people(number: int, replicas: Sequence[Client]) -> AsyncGenerator[list[Person]]:
    """Each follows a conversation of its own, half of them all deltas, starting at different replicas."""
    conversation_ids = [await replicas[0].conversation() for _ in range(number)]
    met: list[Person] = []
    for place, conversation_id in enumerate(conversation_ids):
        transcript = await replicas[0].snapshot(conversation_id)
        turn = place % len(replicas)
        met.append(Person(conversation_id, [*replicas[turn:], *replicas[:turn]], transcript, ("ALL", "COALESCED")[place // 2 % 2]))
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(person.follows(), name="a person who follows") for person in met]
        try:
            yield met
        finally:
            for task in following:
                task.cancel()
