"""What docker-compose.yml describes, started: PostgreSQL, Redis, API replicas behind a proxy, and workers, all on this machine.

Each part keeps its port when it is stopped and started again. The proxy is that of docker-compose.yml, with the same Caddyfile.
"""

import asyncio
import sys
import sysconfig
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.ports import free_port
from cluster.postgres import PostgresServer
from cluster.programs import Program, Server
from cluster.redis import RedisServer

HOST = "127.0.0.1"


class Api(Server):
    """`python app.py`, on a port that it keeps."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.address = f"{HOST}:{(port := free_port())}"
        given = {**environment, "HOST": HOST, "PORT": str(port)}
        super().__init__(name, [sys.executable, "app.py"], given)


class WorkerProgram(Program):
    """`python -m runs`."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        super().__init__(name, [sys.executable, "-m", "runs"], environment, ready=r"Working as (\S+)")

    @property
    def id(self) -> str:
        """That under which it holds its lease; another one after each start."""
        return self.announced


class Proxy(Program):
    """Caddy, before `replicas` (each host:port). What it says is kept, not passed on: it tells every probe of one that is down."""

    def __init__(self, port: int, replicas: Sequence[str], home: Path) -> None:
        self.port = port
        caddy = Path(sysconfig.get_path("scripts")) / "caddy"
        environment = {
            "HOST": HOST,
            "PORT": str(port),
            "REPLICAS": " ".join(replicas),
            "HOME": str(home),
        }
        command = [str(caddy), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
        super().__init__("proxy", command, environment, ready="serving initial configuration", passes_on=False)

    @property
    def url(self) -> str:
        """Of `/graphql`."""
        return f"http://{HOST}:{self.port}/graphql"


@dataclass(frozen=True, slots=True)
class Topology:
    """All parts run. What has been ended meanwhile is not missed at the end."""

    postgres: PostgresServer
    redis: RedisServer
    apis: tuple[Api, ...]
    workers: tuple[WorkerProgram, ...]
    proxy: Proxy

    @property
    def url(self) -> str:
        """Of `/graphql`, through the proxy."""
        return self.proxy.url


@asynccontextmanager
async def topology(*, apis: int = 2, workers: int = 2, port: int | None = None, **settings: str) -> AsyncGenerator[Topology]:
    """`port`: of the proxy. `settings`: environment variables, the same for APIs and workers. The data are thrown away at the end.

    Raises NoPostgres, NoRedis, DidNotStart.
    """
    async with AsyncExitStack() as parts:
        postgres = parts.enter_context(PostgresServer.running())
        redis = parts.enter_context(RedisServer.running())
        home = Path(parts.enter_context(TemporaryDirectory(prefix="parley-proxy-")))
        given = {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url, **settings}
        replicas = tuple(Api(f"api {number}", given) for number in range(1, apis + 1))
        hands = tuple(WorkerProgram(f"worker {number}", given) for number in range(1, workers + 1))
        proxy = Proxy(port or free_port(), [replica.address for replica in replicas], home)
        await _migrate(given)
        parts.push_async_callback(proxy.close)
        parts.push_async_callback(_close, *replicas, *hands)
        await _start(*replicas, *hands)
        await proxy.start()
        yield Topology(postgres, redis, replicas, hands, proxy)


async def _migrate(environment: Mapping[str, str]) -> None:
    await Program("migrate", [sys.executable, "-m", "db", "upgrade"], environment).run()


async def _start(*programs: Program) -> None:
    try:
        async with asyncio.TaskGroup() as starting:
            for program in programs:
                starting.create_task(program.start(), name=f"start of {program.name}")
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _close(*programs: Program) -> None:
    async with asyncio.TaskGroup() as closing:
        for program in programs:
            closing.create_task(program.close(), name=f"end of {program.name}")
