"""What a newcomer does first: clone, `make run`, look, Ctrl-C. Nothing of this checkout or this user helps but the package cache."""

import asyncio
import shutil
from os import environ
from pathlib import Path

import pytest

from cluster.programs import ROOT, Server, started
from tests.e2e.client import client_of
from tests.e2e.server import stopped

MINUTE_S = 60.0
PASSED_THROUGH = ("PIP_", "UV_", "SSL_", "REQUESTS_", "HTTP_", "HTTPS_", "NO_PROXY", "http_", "https_", "no_proxy")
NOT_PART_OF_IT = shutil.ignore_patterns(".venv", ".tools", ".git", "__pycache__", ".*_cache", ".hypothesis", "*.db", "*.db*")


async def cloned(folder: Path) -> Path:
    clone = folder / "clone"
    if not (ROOT / ".git").exists():  # an exported tree is as good
        return Path(shutil.copytree(ROOT, clone, ignore=NOT_PART_OF_IT))
    git = await asyncio.create_subprocess_exec("git", "clone", "--quiet", "--no-local", ROOT, clone)
    assert await git.wait() == 0
    return clone


def newcomer(home: Path) -> dict[str, str]:
    """How to reach the package index, its cache, and a uv if there is one; `make` fetches one otherwise."""
    caches = Path(environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    passed = {name: value for name, value in environ.items() if name.startswith(PASSED_THROUGH)}
    ours = {"HOME": str(home), "UV_CACHE_DIR": str(caches / "uv"), "PIP_CACHE_DIR": str(caches / "pip"), **passed}
    known = ROOT / ".tools" / "bin"
    return {**ours, "PATH": f"{environ['PATH']}:{known}" if known.exists() else environ["PATH"], "PORT": "0"}


@pytest.mark.timeout(MINUTE_S * 2)
async def test_make_run_serves_within_a_minute_ends_at_once_and_finds_everything_again(tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    make = Server("make", ["make", "run"], newcomer(home), folder=await cloned(tmp_path))
    async with started(make, within_s=MINUTE_S) as server, client_of(server.url) as client:
        conversation_id = await client.conversation()
        answer = await client.send(conversation_id, "Hello", waitSeconds=10)
        assert [message["text"] for message in answer["messages"]] == ["Hello", "You said: Hello"]
        before = await client.snapshot(conversation_id)
        await stopped(server)
        assert server.said == [f"Parley is at {server.url}\n"], "neither a traceback nor a complaint of make's"
    async with started(make) as server, client_of(server.url) as client:
        assert (await client.snapshot(conversation_id)).state == before.state
        await stopped(server)
