"""`python -m cluster`, as `make cluster` starts it: it says where everything is, ends at once, and leaves nothing behind."""

import os
import re
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster.programs import DidNotStart, Server, started
from tests.e2e.client import client_of

pytestmark = pytest.mark.timeout(120)
START_S = 100.0


@pytest.fixture
def temporary() -> Generator[Path]:
    """That of the tests is closed to the user as whom PostgreSQL runs."""
    with TemporaryDirectory(prefix="parley-cluster-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


class Cluster(Server):
    def __init__(self, temporary: Path, **settings: str) -> None:
        super().__init__("cluster", [sys.executable, "-m", "cluster"], {"TMPDIR": str(temporary), "PORT": "0", **settings})


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "a terminal that is closed"])
async def test_it_says_where_everything_is_answers_and_leaves_nothing_behind(temporary: Path, told: signal.Signals) -> None:
    async with started(Cluster(temporary), within_s=START_S) as cluster, client_of(cluster.url) as client:
        sent = await client.send(await client.conversation(), "Hello", waitSeconds=10)
        assert sent["messages"][-1]["text"] == "You said: Hello"
        cluster.signal(told)
        assert await cluster.ended() == 0
    ports = {int(port) for line in cluster.said for port in re.findall(r"127\.0\.0\.1:(\d+)", line)}
    workers = [int(pid) for line in cluster.said for pid in re.findall(r"process (\d+)", line)]
    assert (len(ports), len(workers), len(cluster.said)) == (5, 2, 9), cluster.said
    assert not [port for port in ports if is_taken(port)]
    assert not [pid for pid in workers if is_running(pid)]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    {
        "a setting": ({"LEASE_S": "never"}, r"LEASE_S: expected seconds"),
        "a model": ({"DEFAULT_MODEL": "demo/none"}, r"(api|worker) \d did not start: DEFAULT_MODEL: no model 'demo/none'"),
    }.values(),
)
async def test_what_does_not_start_is_told_in_one_line(temporary: Path, settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(DidNotStart, match=complaint):
        async with started(Cluster(temporary, **settings), within_s=START_S):
            pass
    assert not list(temporary.iterdir())


async def test_a_port_that_is_taken_is_named_before_anything_is_started(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DidNotStart, match=rf"cannot listen on PORT {port}"):
            async with started(Cluster(temporary, PORT=str(port)), within_s=START_S):
                pass


def is_taken(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def is_running(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
