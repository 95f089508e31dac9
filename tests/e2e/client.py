"""A client of the whole API, as a careful user would write one: GraphQL over HTTP and graphql-transport-ws, with a deadline everywhere.

What is followed goes into a `Transcript`, which folds events by the rules of `docs/protocol.md` and complains when items do not join.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from httpx2 import AsyncClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

DEADLINE_S = 20.0
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})

# ---- every field that can change, by the type it stands in. A message is the same in all kinds but for what its kind adds.

MESSAGE = """
fragment MessageState on Message {
  __typename id conversationId type status ordinal text inContext groupId runId stepId sequence createdAt
  ... on SystemMessage { clientMessageId }
  ... on UserMessage { clientMessageId sender content { __typename ... on TextPart { text } ... on ImagePart { url mediaType } } }
  ... on ReasoningMessage { signature }
  ... on HiddenReasoningMessage { state }
  ... on ToolCallMessage { toolCalls { ...ToolCallState } }
  ... on ToolReturnMessage { toolReturns { toolCallId name status output } }
  ... on ErrorMessage { error { type message } }
}
fragment ToolCallState on ToolCall { id name arguments argumentsText state source }
"""
RUN = """
fragment RunState on Run {
  id kind status stopReason error { type message } model groupId idempotencyKey attempt
  createdAt startedAt completedAt timeToFirstTokenMs
  usage { ...UsageState }
  steps { id index model usage { ...UsageState } stopReason startedAt completedAt }
}
fragment UsageState on Usage {
  inputTokens outputTokens totalTokens cachedInputTokens cacheWriteTokens reasoningTokens requests estimated
}
"""
CONVERSATION = """
fragment ConversationState on Conversation {
  id summary model modelSettings { temperature maxOutputTokens } status headSequence
  lastMessageAt lastRunCompletedAt createdAt updatedAt agent { id } forkedFrom { id } activeRun { id }
}
"""
EVENT = (
    """
fragment Event on ConversationEvent {
  sequence previousSequence occurredAt runId
  payload {
    __typename
    ... on MessageStarted { message { ...MessageState } messageEdge { cursor } }
    ... on MessageDelta { messageId messageType offset text toolCallId }
    ... on MessageCompleted { message { ...MessageState } messageEdge { cursor } }
    ... on MessageChanged { message { ...MessageState } }
    ... on ToolCallChanged { messageId toolCall { ...ToolCallState } }
    ... on RunChanged { run { ...RunState } status stopReason }
    ... on ConversationChanged { conversation { ...ConversationState } }
    ... on CaughtUp { headSequence }
    ... on StreamReset { reason headSequence }
  }
}
"""
    + MESSAGE
    + RUN
    + CONVERSATION
)
SNAPSHOT = (
    """
query Snapshot($id: ID!) {
  conversation(id: $id) {
    ...ConversationState
    messages(first: 200, filter: { includeErrors: true }) { nodes { ...MessageState } }
    runs(first: 200) { nodes { ...RunState messages(first: 200) { nodes { ...MessageState } } } }
  }
}
"""
    + MESSAGE
    + RUN
    + CONVERSATION
)
LOG = (
    """
query Log($id: ID!, $after: Int!, $deltas: DeltaMode!) {
  conversation(id: $id) { events(after: $after, first: 1000, deltas: $deltas) { events { ...Event } endSequence headSequence hasMore } }
}
"""
    + EVENT
)
FOLLOW = (
    """
subscription Follow($id: ID!, $after: Int, $deltas: DeltaMode) {
  conversationEvents(conversationId: $id, after: $after, deltas: $deltas) { ...Event }
}
"""
    + EVENT
)
CREATE_AGENT = "mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id model } } }"
CREATE_CONVERSATION = (
    "mutation ($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id headSequence } } }"
)
SEND = """
mutation ($input: SendMessageInput!) {
  sendMessage(input: $input) {
    run { id status stopReason error { type message } attempt } messages { id text } appliedThroughSequence deduplicated
  }
}
"""

State = dict[str, dict[str, Any]]


def _by_id(things: list[dict[str, Any]]) -> State:
    return {thing["id"]: thing for thing in things}


def grown(held: str, offset: int, text: str) -> str:
    """Messages and deltas: the rule, in UTF-16 code units."""
    units, added = held.encode("utf-16-le"), text.encode("utf-16-le")
    start = offset * 2
    if start > len(units) or start + len(added) <= len(units):
        return held
    return (units[:start] + added).decode("utf-16-le")


@dataclass(slots=True)
class Transcript:
    """What a client holds of a conversation at `position`. `seen`: the items that were taken."""

    position: int
    conversation: dict[str, Any] = field(default_factory=dict[str, Any])
    messages: State = field(default_factory=dict[str, dict[str, Any]])
    runs: State = field(default_factory=dict[str, dict[str, Any]])
    seen: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @classmethod
    def of(cls, snapshot: Mapping[str, Any]) -> Self:
        """From the answer of SNAPSHOT. Queued inputs are in no history yet; they are found with their runs."""
        conversation = dict(json.loads(json.dumps(snapshot)))
        history, runs = conversation.pop("messages")["nodes"], conversation.pop("runs")["nodes"]
        of_runs = [message for run in runs for message in run.pop("messages")["nodes"]]
        known = _by_id(history)
        for message in of_runs:  # read in another statement than the history, so either may be the newer one
            if message["id"] not in known or known[message["id"]]["sequence"] < message["sequence"]:
                known[message["id"]] = message
        return cls(conversation["headSequence"], conversation, known, _by_id(runs))

    @property
    def state(self) -> dict[str, Any]:
        return {"conversation": self.conversation, "messages": self.messages, "runs": self.runs}

    @property
    def texts(self) -> list[str]:
        """Of what the model answered, in the order of history."""
        answers = [message for message in self.messages.values() if message["type"] == "ASSISTANT"]
        return [message["text"] for message in sorted(answers, key=lambda message: message["ordinal"])]

    def kinds(self) -> list[str]:
        return [item["payload"]["__typename"] for item in self.seen]

    def take(self, item: dict[str, Any]) -> None:
        assert item["previousSequence"] == self.position, f"a hole: {item['previousSequence']} after {self.position}"
        assert item["sequence"] > self.position or item["payload"]["__typename"] in ("CaughtUp", "StreamReset"), "nothing comes twice"
        self.position = item["sequence"]
        self.seen.append(item)
        self._fold(json.loads(json.dumps(item["payload"])))
        self.conversation["headSequence"] = max(self.conversation.get("headSequence", 0), self.position)

    def _fold(self, payload: dict[str, Any]) -> None:
        match payload:
            case {"__typename": "MessageStarted", "message": message}:
                held = self.messages.get(message["id"])
                if held is None or held["sequence"] <= message["sequence"]:
                    self.messages[message["id"]] = message
            case {"__typename": "MessageCompleted" | "MessageChanged", "message": message}:
                self.messages[message["id"]] = message
            case {"__typename": "MessageDelta", "messageId": message_id}:
                self._grow(message_id, payload)
            case {"__typename": "ToolCallChanged", "messageId": message_id, "toolCall": call}:
                self._change_call(message_id, call)
            case {"__typename": "RunChanged", "run": run}:
                self.runs[run["id"]] = run
            case {"__typename": "ConversationChanged", "conversation": conversation}:
                self.conversation = conversation
            case {"__typename": "CaughtUp"}:
                pass
            case _:
                raise AssertionError(f"a transcript does not survive {payload}")

    def _grow(self, message_id: str, delta: dict[str, Any]) -> None:
        if message := self.messages.get(message_id):
            calls = _by_id(message.get("toolCalls", []))
            grows, key = (message, "text") if delta["toolCallId"] is None else (calls.get(delta["toolCallId"], {}), "argumentsText")
            if grows:
                grows[key] = grown(grows[key], delta["offset"], delta["text"])
                message["sequence"] = max(message["sequence"], self.position)

    def _change_call(self, message_id: str, call: dict[str, Any]) -> None:
        if message := self.messages.get(message_id):
            message["toolCalls"] = list((_by_id(message["toolCalls"]) | {call["id"]: call}).values())
            message["sequence"] = max(message["sequence"], self.position)


# ---- the wire


class Refused(Exception):
    """An operation that was answered with errors alone."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Client:
    url: str
    http: AsyncClient
    headers: Mapping[str, str]

    async def answer(self, document: str, **variables: object) -> dict[str, Any]:
        """Whatever comes back."""
        body = json.dumps({"query": document, "variables": variables})  # escapes half a surrogate pair, as JavaScript does
        response = await self.http.post(self.url, content=body, headers={"content-type": "application/json"})
        return response.json()

    async def ask(self, document: str, **variables: object) -> dict[str, Any]:
        answer = await self.answer(document, **variables)
        assert "errors" not in answer, answer
        return answer["data"]

    async def agent(self, model: str | None = None, **more: object) -> str:
        return (await self.ask(CREATE_AGENT, input={"name": "Tester", "model": model, **more}))["createAgent"]["agent"]["id"]

    async def conversation(self, model: str | None = None, **more: object) -> str:
        agent_id = await self.agent(model, **more)
        return (await self.ask(CREATE_CONVERSATION, input={"agentId": agent_id}))["createConversation"]["conversation"]["id"]

    async def send(self, conversation_id: str, text: str, **more: object) -> dict[str, Any]:
        given = {"conversationId": conversation_id, "messages": [{"text": text}], **more}
        return (await self.ask(SEND, input=given))["sendMessage"]

    async def snapshot(self, conversation_id: str) -> Transcript:
        return Transcript.of((await self.ask(SNAPSHOT, id=conversation_id))["conversation"])

    async def log(self, conversation_id: str, *, after: int = 0, deltas: str = "ALL") -> list[dict[str, Any]]:
        page = (await self.ask(LOG, id=conversation_id, after=after, deltas=deltas))["conversation"]["events"]
        assert not page["hasMore"]
        return page["events"]

    @asynccontextmanager
    async def socket(self, **more: Any) -> AsyncGenerator["Socket"]:
        options: dict[str, Any] = {
            "subprotocols": [Subprotocol("graphql-transport-ws")],
            "additional_headers": self.headers,
            "max_size": None,
            **more,
        }
        async with connect(self.url.replace("http", "ws", 1), compression=None, **options) as connection:
            await connection.send(json.dumps({"type": "connection_init"}))
            async with asyncio.timeout(DEADLINE_S):
                assert json.loads(await connection.recv()) == {"type": "connection_ack"}
            async with asyncio.TaskGroup() as tasks:
                socket = Socket(connection)
                reading = tasks.create_task(socket.read(), name="reader of a socket")
                try:
                    yield socket
                finally:
                    reading.cancel()

    @asynccontextmanager
    async def following(self, conversation_id: str, transcript: Transcript, *, deltas: str = "COALESCED") -> AsyncGenerator["Following"]:
        """A socket and a subscription of its own, from where the transcript stands."""
        async with self.socket() as socket:
            operation = await socket.start(FOLLOW, id=conversation_id, after=transcript.position, deltas=deltas)
            yield Following(conversation_id, transcript, socket, operation)

    async def followed(self, conversation_id: str, run_id: str, transcript: Transcript, *, deltas: str = "COALESCED") -> Transcript:
        """The transcript, when it has seen the run's end."""
        async with self.following(conversation_id, transcript, deltas=deltas) as following:
            await following.end_of(run_id)
        return transcript


class Socket:
    """Any number of operations at once; every frame goes to its own."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._operations: dict[str, Operation] = {}

    async def start(self, document: str, **variables: object) -> "Operation":
        operation = self._operations[id_] = Operation(id_ := str(len(self._operations)), self)
        payload = {"query": document, "variables": variables}
        await self.connection.send(json.dumps({"id": id_, "type": "subscribe", "payload": payload}))
        return operation

    async def ask(self, document: str, **variables: object) -> dict[str, Any]:
        """The one result of a query or a mutation."""
        operation = await self.start(document, **variables)
        results = [result async for result in operation]
        assert len(results) == 1, results
        return results[0]

    async def close_code(self) -> int:
        """Waits for the server to close."""
        async with asyncio.timeout(DEADLINE_S):
            await self.connection.wait_closed()
        assert self.connection.close_code is not None
        return self.connection.close_code

    async def read(self) -> None:
        try:
            async for frame in self.connection:
                message = json.loads(frame)
                self._operations[message["id"]].frames.put_nowait(message)
        except ConnectionClosed:  # with a code that is not that of a client's own leaving; `close_code` tells it
            pass
        finally:
            for operation in self._operations.values():
                operation.frames.put_nowait({"type": "closed"})


class Operation:
    """Iterate it for the data of its results. Raises Refused, and ConnectionResetError when its socket is gone."""

    def __init__(self, id_: str, socket: Socket) -> None:
        self.id = id_
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.socket = socket

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            message = await self.frames.get()
        match message["type"]:
            case "next":
                assert "errors" not in message["payload"], message
                return message["payload"]["data"]
            case "error":
                raise Refused(message["payload"])
            case "complete":
                raise StopAsyncIteration
            case _:
                raise ConnectionResetError

    async def stop(self) -> None:
        await self.socket.connection.send(json.dumps({"id": self.id, "type": "complete"}))


@dataclass(frozen=True, slots=True)
class Following:
    """One subscription and what has come of it."""

    conversation_id: str
    transcript: Transcript
    socket: Socket
    operation: Operation

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Takes items up to the first that satisfies, which is answered."""
        async with asyncio.timeout(DEADLINE_S):
            async for data in self.operation:
                self.transcript.take(item := data["conversationEvents"])
                if condition(item):
                    return item
        raise AssertionError("a conversation's stream never completes by itself")

    async def gone(self) -> None:
        """Takes what was still on its way when the connection broke."""
        with suppress(ConnectionResetError):
            await self.until(lambda _: False)

    async def kind(self, name: str) -> dict[str, Any]:
        return await self.until(lambda item: item["payload"]["__typename"] == name)

    async def end_of(self, run_id: str) -> dict[str, Any]:
        """Up to the event behind the run's terminal one: what its end means for the conversation belongs to it."""
        await self.until(lambda item: item["runId"] == run_id and item["payload"].get("status") in TERMINAL)
        return await self.kind("ConversationChanged")


@asynccontextmanager
async def client_of(url: str, *, tenant: str = "default") -> AsyncGenerator[Client]:
    headers = {"X-Tenant": tenant}
    async with AsyncClient(timeout=DEADLINE_S, headers=headers) as http:
        yield Client(url, http, headers)
