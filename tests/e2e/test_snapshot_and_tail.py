"""A query folded with the events after its `headSequence` equals a later query, in every field that can change.

The fields are those of the fragments in `client.py`: of Conversation summary, model, modelSettings, status, headSequence, activeRun,
lastMessageAt, lastRunCompletedAt, updatedAt; of Message everything, with content, signature, toolCalls (arguments, argumentsText,
state), toolReturns and error; of Run status, stopReason, error, model, usage, steps (with their usage), attempt, startedAt,
completedAt, timeToFirstTokenMs. The race is forced: every commit is a moment at which the query, and each part of it, may read.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from db.engine import Database
from db.heads import positions
from db.migrate import upgrade
from llm.model import (
    Delta,
    Failed,
    Finished,
    HiddenReasoning,
    ModelEvent,
    ModelRequest,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
)
from tests.e2e.chronicle import Chronicle, Torn, opened
from tests.e2e.client import FOLLOW, LOG, SNAPSHOT, TERMINAL, Transcript, client_of
from tests.e2e.server import serving
from tests.provider import Answer, Call, Provider
from tests.resolvers.asking import Client as Wireless
from tests.rig import Rig, rig
from tests.runs.scripted import Models
from vocabulary.messages import HiddenReasoningBody, HiddenReasoningState, ReasoningBody
from vocabulary.runs import RunError, RunErrorType, StopReason, Usage

USAGE = Usage(input_tokens=3, output_tokens=2, cached_input_tokens=1, cache_write_tokens=1, reasoning_tokens=1, requests=1)
KINDS = {
    "MessageStarted",
    "MessageDelta",
    "MessageCompleted",
    "MessageChanged",
    "ToolCallChanged",
    "RunChanged",
    "ConversationChanged",
}
TYPES = {"SYSTEM", "USER", "ASSISTANT", "REASONING", "HIDDEN_REASONING", "TOOL_CALL", "TOOL_RETURN", "ERROR"}
STATEMENTS = 8  # more than the query has
MODES = ("ALL", "COALESCED", "NONE")

Cue = ModelEvent | Callable[[], Awaitable[object]]
"""What a model says, or does before it goes on."""


@dataclass
class Paced:
    """A model that says nothing more until what it has said is committed: every event that it causes is a moment of its own."""

    chronicle: Chronicle
    calls: list[Sequence[Cue]] = field(default_factory=list[Sequence[Cue]])

    @property
    def handle(self) -> str:
        return "test/paced"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:  # noqa: ARG002 the Protocol's signature
        await self._committed(len(self.chronicle.copies))
        for cue in self.calls.pop(0):
            before = len(self.chronicle.copies)
            if not isinstance(cue, ModelEvent):
                await cue()
                continue
            yield cue
            if not isinstance(cue, ToolCallEnded | Finished | Failed):  # which write nothing by themselves
                await self._committed(before)

    async def _committed(self, before: int) -> None:
        async with asyncio.timeout(20):
            await self.chronicle.longer_than(before)


def reasoning(*pieces: str) -> list[Cue]:
    return [ReasoningStarted(0), *(Delta(0, piece) for piece in pieces), ReasoningEnded(0, ReasoningBody(signature="signed"))]


def text(*pieces: str) -> list[Cue]:
    return [TextStarted(1), *(Delta(1, piece) for piece in pieces), TextEnded(1)]


def call(index: int, name: str, *arguments: str) -> list[Cue]:
    return [ToolCallStarted(index, name, f"given-{index}"), *(Delta(index, piece) for piece in arguments)]


FINISHED = Finished(USAGE, StopReason.END_TURN)
FAILED = Failed(RunError(RunErrorType.LLM_OVERLOADED, "Too many of us."), USAGE)


# ---- one conversation in which everything happens


@dataclass
class Story:
    """The conversation, its database at every moment, and what one subscriber that was always there has seen."""

    chronicle: Chronicle
    conversation_id: str = ""
    live: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def watch(self, client: Wireless) -> None:
        """Until nothing runs and nothing waits."""
        after = self.live[-1]["sequence"] if self.live else 0
        async with aclosing(client.follow(FOLLOW, id=self.conversation_id, after=after, deltas="ALL")) as items:
            async for item in items:
                if item["payload"]["__typename"] != "CaughtUp":
                    self.live.append(item)
                if item["payload"].get("conversation", {}).get("status") == "IDLE":
                    return


@pytest.fixture
async def story(tmp_path: Path) -> AsyncGenerator[Story]:
    chronicle = Chronicle.open(f"sqlite+aiosqlite:///{tmp_path}/parley.db")
    await upgrade(chronicle)
    async with asyncio.timeout(40):
        yield await told(chronicle)
    await chronicle.close()


async def told(chronicle: Chronicle) -> Story:
    story, paced, halfway = Story(chronicle), Paced(chronicle), asyncio.Event()
    async with living(chronicle, paced) as parley:
        story.conversation_id = (await parley.conversation(model=paced.handle, tools=["current_time"])).id
        paced.calls += [
            # A run that thinks and calls tools, one of which is not there; meanwhile two more wait in line.
            [
                *reasoning("Let me ", "think. "),
                lambda: parley.say(story.conversation_id, "second", "and a half", group_id="group", idempotency_key="key"),
                *call(2, "current_time", "{", "}"),
                lambda: parley.say(story.conversation_id, "third"),
                *call(3, "nothing_like_it", '{"a": ', "1}"),
                ToolCallEnded(2),
                ToolCallEnded(3),
                FINISHED,
            ],
            [*text("It is 🎭", " late", "."), FINISHED],
            # A run whose server is stopped, and which the next one does again from the start of its step.
            [
                HiddenReasoning(5, HiddenReasoningBody(state=HiddenReasoningState.REDACTED)),
                *reasoning("Hm."),
                TextStarted(1),
                Delta(1, "Half "),
                lambda: never(halfway),
            ],
        ]
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(story.watch(Wireless(parley)))
            await parley.say(story.conversation_id, "first", max_steps=5)
            await halfway.wait()
            watching.cancel()
    paced.calls += [
        [*reasoning("Again."), *text("Done", "."), FINISHED],
        # Runs that fail: in the middle of an answer, and in the middle of a tool call.
        [*reasoning("Easy."), TextStarted(1), Delta(1, "An ans"), Delta(1, "wer 🎭 that"), FAILED],
        [*call(2, "current_time", "{"), *call(3, "current_time"), FAILED],
    ]
    async with living(chronicle, paced) as parley, asyncio.TaskGroup() as tasks:
        await parley.say(story.conversation_id, "fourth")
        tasks.create_task(story.watch(Wireless(parley)))
    return story


async def never(reached: asyncio.Event) -> None:
    reached.set()
    await asyncio.Event().wait()


def living(chronicle: Chronicle, paced: Paced) -> AbstractAsyncContextManager[Rig]:
    return rig(chronicle, models=Models(paced))


# ---- what it was at each moment, and the fold


@dataclass(frozen=True)
class Moment:
    """The conversation as of one commit."""

    database: Database
    client: Wireless
    conversation_id: str

    async def asked(self, document: str, database: Database, **variables: object) -> dict[str, Any]:
        there = replace(self.client.rig, engine=replace(self.client.rig.engine, database=database))
        return (await replace(self.client, rig=there).ask(document, id=self.conversation_id, **variables))["conversation"]

    async def snapshot(self, *later: "Moment") -> Transcript:
        """Its first statement reads here, each further one at the next of the later moments."""
        states = [self.database, *(moment.database for moment in later)]
        return Transcript.of(await self.asked(SNAPSHOT, Torn(*states)))

    async def replay(self, held: Transcript, deltas: str) -> None:
        """What a subscriber gets that joins now, up to `CaughtUp`."""
        page = (await self.asked(LOG, self.database, after=held.position, deltas=deltas))["events"]
        assert not page["hasMore"]
        for item in page["events"]:
            held.take(item)
        caught_up = {"__typename": "CaughtUp", "headSequence": page["headSequence"]}
        held.take({"sequence": page["endSequence"], "previousSequence": held.position, "payload": caught_up})


def fields(value: Any, path: str = "") -> dict[str, object]:
    """Every field that holds no others, by its path."""
    match value:
        case dict():
            inner = cast("dict[object, Any]", value).items()
        case list():
            inner = enumerate(cast("list[Any]", value))
        case _:
            return {path: value}
    return {inside: leaf for key, each in inner for inside, leaf in fields(each, f"{path}.{key}").items()}


def differences(held: Transcript, later: Transcript) -> list[str]:
    """The fields that are not the same."""
    a, b = fields(held.state), fields(later.state)
    return [f"{path}: {a.get(path)!r} is not {b.get(path)!r}" for path in sorted({path for path, _ in a.items() ^ b.items()})]


@pytest.fixture
async def moments(story: Story) -> AsyncGenerator[list[Moment]]:
    """Every commit at which the conversation had changed."""
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(opened(copy)) for copy in story.chronicle.copies]
        client = Wireless(await stack.enter_async_context(living(story.chronicle, Paced(story.chronicle))))
        found: list[Moment] = []
        heads: list[int] = []
        for database in databases:
            async with database.read() as connection:
                head = (await positions(connection, [story.conversation_id])).get(story.conversation_id, 0)
            if head > (heads[-1] if heads else 0):
                heads.append(head)
                found.append(Moment(database, client, story.conversation_id))
        yield found


async def test_every_kind_of_event_and_message_is_in_the_story(story: Story) -> None:
    assert [item["sequence"] for item in story.live] == list(range(1, len(story.live) + 1))
    payloads = [item["payload"] for item in story.live]
    assert {payload["__typename"] for payload in payloads} == KINDS
    assert {payload["message"]["type"] for payload in payloads if "message" in payload} == TYPES
    assert {payload["toolCall"]["state"] for payload in payloads if "toolCall" in payload} == {
        "STREAMING",
        "PENDING",
        "INTERRUPTED",
        "RUNNING",
        "COMPLETED",
        "FAILED",
    }
    ends = [payload["status"] for payload in payloads if payload.get("status") in TERMINAL]
    assert ends == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]


async def test_a_snapshot_and_what_a_subscriber_gets_after_it_is_a_later_snapshot(story: Story, moments: list[Moment]) -> None:
    """However much was committed between its statements. There the subscriber joined; what came after that came live."""
    final, last = await moments[-1].snapshot(), len(moments) - 1
    for asked, moment in enumerate(moments):
        slowly = min(asked + STATEMENTS, last)
        for read, later in ((slowly, moments[asked + 1 : slowly + 1]), (last, moments[-1:])):
            snapshot = await moment.snapshot(*later)
            for deltas in MODES if read == last else MODES[asked % 3 :][:1]:
                held = deepcopy(snapshot)
                await moments[read].replay(held, deltas)
                for item in story.live[held.position :]:
                    held.take(item)
                assert differences(held, final) == [], (asked, read, deltas)


async def test_a_snapshot_and_the_log_up_to_a_moment_is_the_snapshot_of_that_moment(moments: list[Moment]) -> None:
    """Also in the middle of an answer, where the snapshot shows the text so far."""
    snapshots = [await moment.snapshot() for moment in moments]
    assert ["It is 🎭 late"] in [snapshot.texts for snapshot in snapshots]
    for number, moment in enumerate(moments):
        for earlier in {0, number - 1} & set(range(number)):
            held = deepcopy(snapshots[earlier])
            await moment.replay(held, MODES[number % 2])
            assert differences(held, snapshots[number]) == [], (earlier, number)


async def test_a_client_of_the_real_server_can_ask_and_follow_in_any_order(tmp_path: Path) -> None:
    """Every snapshot in the middle of an answer equals what was followed; also of a run that fails."""
    gates = {number: asyncio.Event() for number in range(2, 6)}
    async with Provider() as provider:
        provider.script(
            Answer(reasoning="Let me see what time it is. 🎭", tool_calls=[Call("current_time"), Call("nothing_like_it", '{"a": 1}')]),
            Answer(text="It is late, and then it is early again.", gates=gates),
            Answer(text="This one is cut in its middle.", cut_after=4),
        )
        settings = {"PROVIDERS": json.dumps({"local": {"base_url": provider.base_url}})}
        async with serving(tmp_path, **settings) as server, client_of(server.url) as client:
            id_ = await client.conversation("local/any", tools=[{"name": "current_time"}])
            start = await client.snapshot(id_)
            snapshots, followed = [deepcopy(start)], start
            async with client.following(id_, followed, deltas="ALL") as following:
                await client.send(id_, "What time is it?")
                last = (await client.send(id_, "And now?"))["run"]["id"]
                await provider.until(lambda: len(provider.requests) == 2)
                for gate in gates.values():
                    await following.until(lambda item: item["payload"].get("messageType") == "ASSISTANT")
                    snapshots.append(await client.snapshot(id_))
                    assert differences(followed, snapshots[-1]) == []
                    gate.set()
                await following.end_of(last)
            final = await client.snapshot(id_)
            so_far = ["It is la", "It is late, and ", "It is late, and then it ", "It is late, and then it is early"]
            assert [snapshot.texts for snapshot in snapshots[1:]] == [[text] for text in so_far]
            assert [run["status"] for run in final.runs.values()] == ["COMPLETED", "FAILED"]
            for snapshot in [followed, *snapshots]:
                for item in await client.log(id_, after=snapshot.position, deltas="COALESCED"):
                    snapshot.take(item)
                assert differences(snapshot, final) == []
