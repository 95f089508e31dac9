"""Stopping, killing and starting again: conversations survive their server, and so do answers that were being written."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.e2e.client import FOLLOW, Client, Following, Transcript, client_of
from tests.e2e.server import serving, stopped

SAID = "".join(f"word{number} 🎭 " for number in range(100)).rstrip()
ANSWERED = f"You said: {SAID}"
# Slow: so long an answer takes longer than any test, and is always caught in its middle.
SLOW, FAST = "100", "0"
LONG_BEFORE_THE_WAIT_IS_OVER_S = 20.0


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def signal_(request: pytest.FixtureRequest) -> signal.Signals:
    return request.param


async def middle_of_an_answer(client: Client, following: Following) -> str:
    """The run, once some words of its answer have been seen."""
    run_id = (await client.send(following.conversation_id, SAID))["run"]["id"]
    for _ in range(3):
        await following.kind("MessageDelta")
    assert following.transcript.texts[0] in ANSWERED
    return run_id


async def test_a_server_can_be_stopped_as_soon_as_it_has_said_where_it_is(tmp_path: Path, signal_: signal.Signals) -> None:
    async with serving(tmp_path) as server:
        assert await stopped(server, signal_) == 0
    assert len(server.said) == 1


async def test_an_idle_server_answers_stops_and_finds_everything_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, client_of(server.url) as client:
        conversation_id = await client.conversation()
        sent = await client.send(conversation_id, "Hello", waitSeconds=10)
        assert (sent["run"]["status"], sent["messages"][-1]["text"]) == ("COMPLETED", "You said: Hello")
        before = await client.snapshot(conversation_id)
        assert await stopped(server) == 0
    async with serving(tmp_path) as server, client_of(server.url) as client:
        assert (await client.snapshot(conversation_id)).state == before.state


async def test_a_server_that_stops_in_the_middle_of_an_answer_goes_on_with_it(tmp_path: Path, signal_: signal.Signals) -> None:
    seen = Transcript(0)
    async with serving(tmp_path, DEMO_DELAY_MS=SLOW) as server, client_of(server.url) as client, asyncio.TaskGroup() as waiting:
        conversation_id = await client.conversation()
        async with client.socket() as idle, client.following(conversation_id, seen) as following:
            run_id = await middle_of_an_answer(client, following)
            queued = waiting.create_task(client.send(conversation_id, "I come next", waitSeconds=60))
            await following.kind("ConversationChanged")
            assert await stopped(server, signal_) == 0
            assert [await following.socket.close_code(), await idle.close_code()] == [1012, 1012]
        async with asyncio.timeout(LONG_BEFORE_THE_WAIT_IS_OVER_S):
            next_run = (await queued)["run"]
        assert next_run["status"] == "QUEUED"
    partial = seen.texts[0]

    async with serving(tmp_path, DEMO_DELAY_MS=FAST) as server, client_of(server.url) as client:
        await client.followed(conversation_id, next_run["id"], seen)
        stored = await client.snapshot(conversation_id)
        assert seen.state == stored.state
        assert [text[: len(partial)] for text in stored.texts[:1]] == [partial]
        assert stored.texts[1:] == [ANSWERED, "You said: I come next"]
        assert [(run["status"], run["attempt"]) for run in stored.runs.values()] == [("COMPLETED", 1), ("COMPLETED", 1)]
        assert run_id in stored.runs


async def test_a_server_that_is_killed_in_the_middle_of_an_answer_loses_nothing(tmp_path: Path) -> None:
    seen = Transcript(0)
    async with serving(tmp_path, DEMO_DELAY_MS=SLOW) as server, client_of(server.url) as client:
        conversation_id = await client.conversation()
        async with client.following(conversation_id, seen) as following:
            run_id = await middle_of_an_answer(client, following)
            await server.kill()
            await following.gone()
    partial, before = seen.texts[0], len(seen.seen)

    async with serving(tmp_path, DEMO_DELAY_MS=FAST) as server, client_of(server.url) as client:
        await client.followed(conversation_id, run_id, seen)
        stored = await client.snapshot(conversation_id)
        assert seen.state == stored.state
        assert [message["text"] for message in stored.messages.values() if message["type"] == "USER"] == [SAID]
        assert (stored.texts[0][: len(partial)], stored.texts[1:]) == (partial, [ANSWERED])
        assert [(m["status"], m["inContext"]) for m in stored.messages.values() if m["text"] == stored.texts[0]] == [("INTERRUPTED", False)]
        assert (stored.runs[run_id]["status"], stored.runs[run_id]["attempt"]) == ("COMPLETED", 2)

        whole = await client.followed(conversation_id, run_id, Transcript(0), deltas="ALL")
        numbers = [item["sequence"] for item in whole.seen if item["payload"]["__typename"] != "CaughtUp"]
        assert numbers == list(range(1, whole.position + 1)), "none is missing and none is there twice"
        assert {item["sequence"] for item in seen.seen[:before]} <= set(numbers)

        sent = await client.send(conversation_id, "Still there?", waitSeconds=10)
        assert (sent["run"]["status"], sent["messages"][-1]["text"]) == ("COMPLETED", "You said: Still there?")


async def test_a_client_that_has_stopped_reading_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path, DEMO_DELAY_MS=FAST) as server, client_of(server.url) as client:
        conversation_id = await client.conversation()
        for _ in range(5):
            await client.send(conversation_id, "x" * 500_000, waitSeconds=10)
        async with client.socket(max_queue=1, close_timeout=0) as socket:
            operations = [await socket.start(FOLLOW, id=conversation_id, after=0, deltas="ALL") for _ in range(5)]
            await anext(operations[0])
            socket.connection.transport.pause_reading()
            for _ in range(20):  # turns, in which the server fills all there is between it and this client
                await client.ask("{ viewer { actor } }")
            assert await stopped(server) == 0
            socket.connection.transport.abort()
