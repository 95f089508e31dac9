"""The client to learn from, run as its reader would run it."""

import asyncio
import sys
from asyncio.subprocess import PIPE

import pytest

from cluster.programs import ROOT, Server
from tests.e2e.client import DEADLINE_S

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Long enough that the example is there before the answer is over.
EMOJI = "👩‍👩‍👧 letters 🎭🎭 in every word🙂 of it, many of them 🏳️‍🌈 cut between 🧵 deltas " * 10


@pytest.mark.parametrize(
    ("arguments", "breaks"),
    [([], False), (["--drop-after", "1", "--text", "word " * 150], True), (["--drop-after", "2", "--text", EMOJI], True)],
    ids=["plain", "at once", "emoji"],
)
async def test_the_example_loses_its_connection_and_nothing_else(server: Server, arguments: list[str], breaks: bool) -> None:
    command = [sys.executable, "examples/follow.py", "--url", server.url, *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
    async with asyncio.timeout(DEADLINE_S):
        told = (await process.communicate())[0].decode()
    assert process.returncode == 0, told
    assert told.endswith("The text held equals the stored one.\n")
    assert not breaks or "the connection breaks" in told
