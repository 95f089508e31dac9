"""The client to learn from, run as its reader would run it."""

import asyncio
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.e2e.client import DEADLINE_S
from tests.e2e.server import ROOT, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

EMOJI = "👩‍👩‍👧 letters 🎭🎭 in every word🙂 of it, many of them 🏳️‍🌈 cut between 🧵 deltas"


@pytest.mark.parametrize(
    "arguments", [[], ["--drop-after", "1"], ["--drop-after", "2", "--text", EMOJI]], ids=["plain", "at once", "emoji"]
)
async def test_the_example_loses_its_connection_and_nothing_else(server: Server, arguments: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "examples/follow.py", "--url", server.url, *arguments, cwd=ROOT, stdout=PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        told = (await process.communicate())[0].decode()
    assert process.returncode == 0, told
    assert "the connection breaks" in told
    assert told.endswith("The text held equals the stored one.\n")
