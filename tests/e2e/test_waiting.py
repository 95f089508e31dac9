"""Waiting for an answer: the client that asked may leave, and the answer is written all the same; a server that stops lets nobody wait."""

import asyncio
from contextlib import suppress
from pathlib import Path

from tests.e2e.client import SEND, Client, Transcript, client_of
from tests.e2e.server import serving

SLOWLY = "20"
TEXT = " ".join(f"word{number}" for number in range(20))


async def _begun(client: Client, conversation_id: str) -> str:
    """The run, once it says something."""
    async with client.following(conversation_id, Transcript(0), deltas="ALL") as following:
        return (await following.kind("MessageDelta"))["runId"]


async def _is_finished(client: Client, conversation_id: str, run_id: str) -> None:
    transcript = await client.followed(conversation_id, run_id, Transcript(0))
    assert transcript.state == (await client.snapshot(conversation_id)).state
    log = await client.log(conversation_id)
    assert [event["payload"]["status"] for event in log if event["payload"]["__typename"] == "RunChanged"][-1] == "COMPLETED"


async def test_a_run_goes_on_when_who_waits_for_it_over_http_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path, DEMO_DELAY_MS=SLOWLY) as server, client_of(server.url) as client:
        conversation_id = await client.conversation()
        async with client_of(server.url) as leaving:
            waiting = asyncio.create_task(leaving.send(conversation_id, TEXT, waitSeconds=60))
            run_id = await _begun(client, conversation_id)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        await _is_finished(client, conversation_id, run_id)


async def test_a_run_goes_on_when_who_waits_for_it_on_a_socket_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path, DEMO_DELAY_MS=SLOWLY) as server, client_of(server.url) as client:
        conversation_id = await client.conversation()
        async with client.socket() as socket:
            await socket.start(SEND, input={"conversationId": conversation_id, "messages": [{"text": TEXT}], "waitSeconds": 60})
            run_id = await _begun(client, conversation_id)
        await _is_finished(client, conversation_id, run_id)
