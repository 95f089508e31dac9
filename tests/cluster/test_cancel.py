"""Cancelling through the API, while a worker of another process writes: from any server, twice, too late, and when that worker is gone."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from cluster.topology import Topology, topology
from tests.e2e.client import Client, Following, Transcript, client_of
from tests.provider import Answer, Provider

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

CANCEL_RUN = "mutation ($input: CancelRunInput!) { cancelRun(input: $input) { result { outcome run { id status stopReason } } } }"
HALF = Answer(text=["Half an", " answer"], stall_after=3)
AT_ONCE_S = 20.0  # no lease has run out by then, and no heartbeat been asked for


@dataclass(frozen=True, slots=True)
class Place:
    """`clients`: one for each server, past the proxy."""

    provider: Provider
    parts: Topology
    clients: tuple[Client, Client]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncGenerator[Place]:
    async with Provider() as provider:
        providers = json.dumps({"local": {"base_url": provider.base_url}})
        async with topology(workers=1, PROVIDERS=providers, LEASE_S="600") as parts:
            one, other = (f"http://{api.address}/graphql" for api in parts.apis)
            async with client_of(one) as first, client_of(other) as second:
                yield Place(provider, parts, (first, second))


async def begun(place: Place, following: Following) -> str:
    """The id of a run that has said half its answer, and says no more."""
    sent = await place.clients[0].send(following.conversation_id, "Hi")
    await following.until(lambda _: following.transcript.texts[-1:] == ["Half an answer"])
    return sent["run"]["id"]


async def cancelled(client: Client, run_id: str) -> dict[str, Any]:
    async with asyncio.timeout(AT_ONCE_S):
        return (await client.ask(CANCEL_RUN, input={"id": run_id}))["cancelRun"]["result"]


async def ended(following: Following, run_id: str) -> dict[str, Any]:
    """The run, as a subscriber has it who was told of its end."""
    async with asyncio.timeout(AT_ONCE_S):
        await following.end_of(run_id)
    return following.transcript.runs[run_id]


async def is_as_stored(client: Client, following: Following) -> None:
    stored = await client.snapshot(following.conversation_id)
    assert following.transcript.state == stored.state


async def test_a_run_of_another_process_is_cancelled_twice_at_once_and_a_third_one_sees_it(place: Place) -> None:
    one, other = place.clients
    id_ = await one.conversation("local/m")
    left = len(place.provider.disconnects)
    place.provider.script(HALF)
    async with other.following(id_, Transcript(0)) as following:
        run_id = await begun(place, following)
        both = await asyncio.gather(cancelled(one, run_id), cancelled(other, run_id))
        assert sorted(result["outcome"] for result in both) == ["ALREADY_ENDED", "CANCELLED"]
        assert [result["run"] for result in both] == [{"id": run_id, "status": "CANCELLED", "stopReason": "CANCELLED"}] * 2
        assert (await ended(following, run_id))["status"] == "CANCELLED"
        await place.provider.until(lambda: len(place.provider.disconnects) > left, timeout_s=AT_ONCE_S)
        assert following.transcript.texts == ["Half an answer"]
        await is_as_stored(one, following)


async def test_a_run_whose_worker_was_just_killed_is_cancelled_at_once_and_shown_to_the_next(place: Place) -> None:
    one, other = place.clients
    [hand] = place.parts.workers
    id_ = await one.conversation("local/m")
    place.provider.script(HALF)
    async with other.following(id_, Transcript(0)) as following:
        run_id = await begun(place, following)
        hand.signal(signal.SIGKILL)
        result = await cancelled(one, run_id)
        assert (result["outcome"], result["run"]["status"]) == ("CANCELLED", "CANCELLED")
        assert (await ended(following, run_id))["attempt"] == 1
        await hand.ended()
        await hand.start()
        sent = await one.send(id_, "Go on.")
        await following.end_of(sent["run"]["id"])
        await is_as_stored(one, following)
    asked = [(message["role"], message["content"]) for message in place.provider.requests[-1].body["messages"]]
    assert asked == [("user", "Hi"), ("assistant", "Half an answer"), ("user", "Go on.")]


async def test_a_run_that_is_just_finishing_in_another_process_ends_once_and_as_the_answer_says(place: Place) -> None:
    one, other = place.clients
    id_ = await one.conversation("local/m")
    async with other.following(id_, Transcript(0)) as following:
        for said in range(10):
            place.provider.script(Answer(text="Well."))
            run_id = (await one.send(id_, "Hi"))["run"]["id"]
            await following.until(lambda _, before=said: following.transcript.texts[before:] == ["Well."])
            result = await cancelled(one, run_id)
            assert result["run"]["status"] == {"CANCELLED": "CANCELLED", "ALREADY_ENDED": "COMPLETED"}[result["outcome"]]
            assert (await ended(following, run_id))["status"] == result["run"]["status"]
        ends = [item["runId"] for item in following.transcript.seen if item["payload"].get("status") in ("COMPLETED", "CANCELLED")]
        assert len(set(ends)) == len(ends) == 10
        await is_as_stored(one, following)
