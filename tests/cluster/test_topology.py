"""Replicas stand for each other, and the proxy for both: what is sent to one is seen at once by those who listen to another."""

from urllib.parse import urlsplit

import pytest
from httpx2 import AsyncClient

from cluster.topology import Topology
from tests.e2e.client import Client, Transcript, client_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LONG = " ".join(f"word{number}" for number in range(100))
ANSWERED = f"You said: {LONG}"


async def test_what_is_sent_to_one_is_seen_through_the_other_and_through_the_proxy(running: Topology) -> None:
    first, second = running.apis
    async with client_of(first.url) as sender, client_of(second.url) as other, client_of(running.url) as outside:
        conversation_id = await sender.conversation()
        async with (
            other.following(conversation_id, Transcript(0)) as by_other,
            outside.following(conversation_id, Transcript(0)) as by_proxy,
        ):
            run_id = (await sender.send(conversation_id, "Hello"))["run"]["id"]
            for following in (by_other, by_proxy):
                await following.end_of(run_id)
                assert following.transcript.texts == ["You said: Hello"]
        stored = await sender.snapshot(conversation_id)
        assert by_other.transcript.state == by_proxy.transcript.state == stored.state


async def test_who_comes_back_to_the_other_replica_with_its_last_number_has_missed_nothing(running: Topology) -> None:
    first, second = running.apis
    seen = Transcript(0)
    async with client_of(first.url) as here, client_of(second.url) as there:
        conversation_id = await here.conversation()
        async with here.following(conversation_id, seen) as following:
            run_id = (await here.send(conversation_id, LONG))["run"]["id"]
            for _ in range(3):
                await following.kind("MessageDelta")
        assert seen.texts[0] != ANSWERED, "it left in the middle of the answer"
        await there.followed(conversation_id, run_id, seen)
        assert seen.state == (await here.snapshot(conversation_id)).state
        assert seen.texts == [ANSWERED]


async def test_a_delta_comes_through_the_proxy_over_a_websocket_before_the_answer_is_finished(running: Topology) -> None:
    async with client_of(running.url) as client:
        conversation_id = await client.conversation()
        async with client.following(conversation_id, Transcript(0)) as following:
            run_id = (await client.send(conversation_id, LONG))["run"]["id"]
            await following.kind("MessageDelta")
            assert await status_of(client, run_id) == "RUNNING"
            await following.end_of(run_id)


async def test_the_page_and_its_parts_come_through_the_proxy(running: Topology) -> None:
    async with AsyncClient(base_url=f"http://{urlsplit(running.url).netloc}") as http:
        page = await http.get("/graphql", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
        assert (await http.get("/readyz")).json() == {"status": "ok", "database": "reachable", "bus": "attached"}


async def test_the_proxy_passes_over_a_replica_that_is_down(running: Topology) -> None:
    """And finds it again when it is up. Nothing is refused meanwhile."""
    down, up = running.apis
    async with client_of(running.url) as client:
        conversation_id = await client.conversation()
        await down.kill()
        for number in range(10):
            await client.send(conversation_id, f"Hello {number}")
        await down.start()
        await up.kill()
        try:
            assert (await client.send(conversation_id, "Still there?", waitSeconds=15))["run"]["status"] == "COMPLETED"
        finally:
            await up.start()


async def status_of(client: Client, run_id: str) -> str:
    return (await client.ask("query ($id: ID!) { run(id: $id) { status } }", id=run_id))["run"]["status"]
