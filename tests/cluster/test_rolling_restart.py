"""A new version is rolled out while people talk: each API, then each worker, is told to leave, and is started again."""

import asyncio
from typing import Any

import pytest

from cluster.topology import Topology
from tests.chaos.people import Person, people
from tests.e2e.client import Client, Transcript, client_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

PEOPLE = 6
SAID = " ".join(f"word{number}" for number in range(30))


async def test_a_rolling_restart_of_everything_loses_no_send_fails_no_run_and_closes_no_socket_without_a_word(running: Topology) -> None:
    async with client_of(running.url) as client, people(PEOPLE, [client]) as met:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as talking:
            for person in met:
                talking.create_task(talks(person, done))
            for program in (*running.apis, *running.workers):
                await met[0].is_writing()
                assert await program.terminate() == 0
                await program.start()
            done.set()
        for person in met:
            await has_lost_nothing(client, person)
    closed = [loss for person in met for loss in person.losses.elements() if loss.startswith("stream")]
    assert set(closed) == {"stream: closed with 1012"}
    assert len(closed) >= PEOPLE, "each had to leave the replica that was restarted last, if not both"


async def talks(person: Person, done: asyncio.Event) -> None:
    while not done.is_set():
        await person.has_seen_the_end_of(await person.says(f"{len(person.said)}: {SAID}"))


async def has_lost_nothing(client: Client, person: Person) -> None:
    stored = await client.snapshot(person.conversation_id)
    await person.has_come_to(stored.position)
    assert person.transcript.state == stored.state
    assert {run_id: (run["status"], run["attempt"]) for run_id, run in stored.runs.items()} == dict.fromkeys(
        person.acknowledged.values(), ("COMPLETED", 1)
    )
    assert texts(stored, "USER") == person.said
    assert texts(stored, "ASSISTANT") == [f"You said: {said}" for said in person.said]


def texts(stored: Transcript, kind: str) -> list[str]:
    """Of what is whole: an answer that was handed over in its middle is there once more, interrupted."""
    whole: list[dict[str, Any]] = [one for one in stored.messages.values() if (one["type"], one["status"]) == (kind, "COMPLETED")]
    return [message["text"] for message in sorted(whole, key=lambda message: message["ordinal"])]
