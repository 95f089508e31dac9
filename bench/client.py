"""A client as frameworks write it: commands over HTTP, subscriptions over WebSockets, with what a chat selects."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from vocabulary.runs import TERMINAL_STATUSES

CREATE_AGENT = "mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }"
CREATE_CONVERSATION = "mutation ($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id } } }"
SEND = "mutation ($input: SendMessageInput!) { sendMessage(input: $input) { run { id } appliedThroughSequence } }"
FOLLOW = """
subscription ($id: ID!, $after: Int, $deltas: DeltaMode) {
  conversationEvents(conversationId: $id, after: $after, deltas: $deltas) {
    sequence previousSequence occurredAt runId
    payload {
      __typename
      ... on MessageStarted { message { id type status text sequence } }
      ... on MessageDelta { messageId messageType offset text toolCallId }
      ... on MessageCompleted { message { id type status ordinal text sequence } }
      ... on ToolCallChanged { messageId toolCall { id name state argumentsText } }
      ... on RunChanged { status stopReason run { id usage { inputTokens outputTokens } } }
      ... on ConversationChanged { conversation { id status summary } }
      ... on CaughtUp { headSequence }
      ... on StreamReset { reason headSequence }
    }
  }
}
"""
Payload = dict[str, Any]


class Unexpected(Exception):
    """An answer or a frame that no benchmark can go on from."""


@dataclass(frozen=True, slots=True)
class Client:
    url: str
    http: httpx2.AsyncClient

    async def ask(self, query: str, **given: Any) -> Any:
        """The one field of a mutation."""
        answer = (await self.http.post(self.url, json={"query": query, "variables": {"input": given}})).json()
        if "errors" in answer:
            raise Unexpected(answer)
        [field] = answer["data"].values()
        return field

    async def agent(self, **given: Any) -> str:
        return (await self.ask(CREATE_AGENT, name="Bench", **given))["agent"]["id"]

    async def conversation(self, agent_id: str) -> str:
        return (await self.ask(CREATE_CONVERSATION, agentId=agent_id))["conversation"]["id"]

    async def send(self, conversation_id: str, text: str) -> None:
        await self.ask(SEND, conversationId=conversation_id, messages=[{"text": text}])

    @asynccontextmanager
    async def socket(self) -> AsyncGenerator["Socket"]:
        address = self.url.replace("http", "ws", 1)
        async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], compression=None, ping_interval=None) as connection:
            await connection.send('{"type":"connection_init"}')
            if orjson.loads(await connection.recv()) != {"type": "connection_ack"}:
                raise Unexpected("no connection_ack")
            yield Socket(connection)


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._subscribed = 0

    async def follow(self, conversation_id: str, *, after: int | None = None, deltas: str = "COALESCED") -> str:
        """Subscribes; returns the operation's id."""
        self._subscribed += 1
        variables = {"id": conversation_id, "after": after, "deltas": deltas}
        await self._send({"id": str(self._subscribed), "type": "subscribe", "payload": {"query": FOLLOW, "variables": variables}})
        return str(self._subscribed)

    async def leave(self, operation_id: str) -> None:
        await self._send({"id": operation_id, "type": "complete"})

    async def payload(self) -> Payload:
        """Of the next item of any subscription on this socket."""
        return (await self.item())[1]["payload"]

    async def item(self) -> tuple[str, dict[str, Any]]:
        """The next one, and the operation that it is of."""
        frame = orjson.loads(await self._connection.recv())
        if frame["type"] != "next" or "errors" in frame["payload"]:
            raise Unexpected(frame)
        return frame["id"], frame["payload"]["data"]["conversationEvents"]

    async def until(self, *kinds: str) -> list[Payload]:
        """The payloads up to and with the first of one of these kinds."""
        payloads = [await self.payload()]
        while payloads[-1]["__typename"] not in kinds:
            payloads.append(await self.payload())
        return payloads

    async def until_ended(self) -> list[Payload]:
        """Up to and with the end of a run."""
        payloads = await self.until("RunChanged")
        while payloads[-1]["status"] not in TERMINAL_STATUSES:
            payloads += await self.until("RunChanged")
        return payloads

    async def _send(self, message: object) -> None:
        await self._connection.send(orjson.dumps(message).decode())


@asynccontextmanager
async def visiting(url: str) -> AsyncGenerator[Client]:
    async with httpx2.AsyncClient(timeout=60) as http:
        yield Client(url, http)
