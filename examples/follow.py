"""A client to learn from: sends a message, follows the answer, loses its connection in the middle, resumes, and has lost nothing.

    make run                          # in one terminal
    uv run python examples/follow.py  # in another; --url for another server

It keeps the three things that every client needs: the number it last saw, the texts it has built, and the rule for deltas.
"""

import argparse
import asyncio
import itertools
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

CREATE_AGENT = "mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id model } } }"
CREATE_CONVERSATION = (
    "mutation ($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id headSequence } } }"
)
SEND = "mutation ($input: SendMessageInput!) { sendMessage(input: $input) { run { id } appliedThroughSequence } }"
HISTORY = "query ($id: ID!) { conversation(id: $id) { messages { nodes { id type text } } } }"
FOLLOW = """
subscription ($id: ID!, $after: Int) {
  conversationEvents(conversationId: $id, after: $after) {
    sequence previousSequence
    payload {
      __typename
      ... on MessageStarted { message { id type text sequence } }
      ... on MessageDelta { messageId offset text toolCallId }
      ... on MessageCompleted { message { id type text sequence } }
      ... on RunChanged { status }
      ... on CaughtUp { headSequence }
      ... on StreamReset { reason headSequence }
    }
  }
}
"""
TERMINAL = {"COMPLETED", "FAILED", "CANCELLED"}


class Transcript:
    """What a client holds: texts by message, and the position to resume after."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.texts: dict[str, str] = {}

    def take(self, item: dict[str, Any]) -> None:
        assert item["previousSequence"] == self.position, f"a hole: {item['previousSequence']} after {self.position}"
        self.position = item["sequence"]
        match item["payload"]:
            case {"__typename": "MessageStarted" | "MessageCompleted", "message": message}:
                self.texts[message["id"]] = message["text"]
            case {"__typename": "MessageDelta", "toolCallId": None, "messageId": message_id, "offset": offset, "text": text}:
                if message_id in self.texts:
                    self.texts[message_id] = grown(self.texts[message_id], offset, text)
            case _:
                pass


def grown(held: str, offset: int, text: str) -> str:
    """The rule for deltas, in UTF-16 code units as JavaScript counts them."""
    units, added = held.encode("utf-16-le"), text.encode("utf-16-le")
    start = offset * 2
    if start > len(units) or start + len(added) <= len(units):
        return held  # beyond what we hold: MessageCompleted will bring it; or known already
    return (units[:start] + added).decode("utf-16-le")


def told(payload: dict[str, Any]) -> str:
    """One line of an event, for people."""
    message = payload.get("message")
    return f"{message['type']} {message['text']!r}" if message else repr(payload.get("text") or payload.get("status") or "")


async def follow(url: str, conversation_id: str, after: int) -> AsyncGenerator[tuple[ClientConnection, dict[str, Any]]]:
    """One subscription on a socket of its own, until the socket is gone."""
    socket_url = url.replace("http", "ws", 1)
    async with connect(socket_url, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        await socket.send(json.dumps({"type": "connection_init"}))
        variables = {"id": conversation_id, "after": after}
        subscribe = {"id": "1", "type": "subscribe", "payload": {"query": FOLLOW, "variables": variables}}
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        await socket.send(json.dumps(subscribe))
        try:
            async for frame in socket:
                message = json.loads(frame)
                if message["type"] == "next":
                    yield socket, message["payload"]["data"]["conversationEvents"]
                elif message["type"] == "error":
                    raise SystemExit(f"refused: {message['payload']}")
        except ConnectionClosed:
            return


async def ask(client: httpx2.AsyncClient, url: str, query: str, **variables: Any) -> Any:
    answer = (await client.post(url, json={"query": query, "variables": variables})).json()
    if "errors" in answer:
        raise SystemExit(f"refused: {answer['errors']}")
    return answer["data"]


async def main(url: str, text: str, drop_after: int) -> bool:
    async with httpx2.AsyncClient(timeout=30) as client:
        agent = (await ask(client, url, CREATE_AGENT, input={"name": "Follower"}))["createAgent"]["agent"]
        created = await ask(client, url, CREATE_CONVERSATION, input={"agentId": agent["id"]})
        conversation = created["createConversation"]["conversation"]
        transcript = Transcript(conversation["headSequence"])
        await ask(client, url, SEND, input={"conversationId": conversation["id"], "messages": [{"text": text}]})
        print(f"{agent['model']} answers in {conversation['id']}")

        dropped = ended = False
        while not ended:
            deltas = itertools.count(1)
            async with aclosing(follow(url, conversation["id"], transcript.position)) as items:
                async for socket, item in items:
                    transcript.take(item)
                    payload = item["payload"]
                    print(f"{item['sequence']:5}  {payload['__typename']:20}{told(payload)}")
                    if payload["__typename"] == "RunChanged" and payload["status"] in TERMINAL:
                        ended = True
                        break
                    if payload["__typename"] == "MessageDelta" and not dropped and next(deltas) == drop_after:
                        print(f"       … the connection breaks; resuming after {transcript.position}")
                        dropped = True
                        socket.transport.abort()

        stored = (await ask(client, url, HISTORY, id=conversation["id"]))["conversation"]["messages"]["nodes"]
        answers = {message["id"]: message["text"] for message in stored if message["type"] == "ASSISTANT"}
        same = bool(answers) and all(transcript.texts.get(id_) == answer for id_, answer in answers.items())
        print("The text held equals the stored one." if same else f"The texts differ: {transcript.texts} {answers}")
        return same


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Follows an answer over a broken connection.")
    parser.add_argument("--url", default="http://127.0.0.1:8000/graphql")
    parser.add_argument("--text", default="Tell me, word by word, how a conversation survives its connection.")
    parser.add_argument("--drop-after", type=int, default=3, help="break the connection after so many deltas")
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(main(given.url, given.text, given.drop_after)) else 1)
