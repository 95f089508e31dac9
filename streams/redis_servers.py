"""Where channels live: on one Redis server, or spread over the nodes of a cluster, each of which holds the shard channels of its slots."""

import asyncio
import math
from collections.abc import Callable, Sequence, Set
from typing import Any, Protocol

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException

from streams.redis_address import connection_options
from streams.redis_line import RedisLimits
from streams.redis_outbox import Outgoing


class Speaker:
    """One connection to one server, on which batches are announced, made anew after trouble.

    The pipeline is written out: it costs a third of the library's own, and is on the path of every token.
    """

    def __init__(self, connect: Callable[[], AbstractConnection], command: str, limits: RedisLimits) -> None:
        self._connect = connect
        self._command = command
        self._limits = limits
        self._connection: AbstractConnection | None = None

    async def say(self, batch: Sequence[Outgoing]) -> None:
        connection = self._connection = self._connection or self._connect()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await connection.connect()
                await connection.send_packed_command(connection.pack_commands([(self._command, *outgoing) for outgoing in batch]))
                for _ in batch:
                    await connection.read_response(timeout=math.inf)
        except BaseException:  # whatever it was, answers are left unread: the connection cannot be used again
            await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


class Servers(Protocol):
    """Every method that waits raises one of `AWAY` when it fails."""

    sharded: bool

    async def learn(self) -> Set[str]:
        """Finds out which servers there are, and what they hold; before anything else, and again after trouble."""
        ...

    def holder(self, channel: str) -> str | None:
        """The name of the server that a channel is on; None while nobody is known to hold it."""
        ...

    def connection(self, server: str) -> AbstractConnection:
        """A new one, not connected yet, that will not repair itself."""
        ...

    async def close(self) -> None: ...


class SingleServer:
    sharded = False
    _name = "server"

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool(**connection_options(url), retry=Retry(NoBackoff(), 0))

    async def learn(self) -> Set[str]:
        return {self._name}

    def holder(self, channel: str) -> str | None:  # noqa: ARG002
        return self._name

    def connection(self, server: str) -> AbstractConnection:  # noqa: ARG002
        return self._pool.make_connection()

    async def close(self) -> None:
        await self._pool.aclose()


class ClusterServers:
    """The library knows the slots and learns them again; who asks a node for one that has moved is refused, and asks again."""

    sharded = True

    def __init__(self, url: str, limits: RedisLimits) -> None:
        self._limits = limits
        options = connection_options(url)
        tls = options.pop("connection_class", None) is not None
        # Full coverage would let one slot that nobody serves keep us from learning who serves all others.
        self._cluster = RedisCluster(**options, ssl=tls, require_full_coverage=False)

    async def learn(self) -> Set[str]:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await self._cluster.initialize()
                await self._cluster.nodes_manager.initialize()
        except (RedisClusterException, IndexError) as error:  # the library looks for the first node of none when no slot is served
            raise ConnectionError(str(error)) from error
        return {node.name for node in self._cluster.get_primaries()}

    def holder(self, channel: str) -> str | None:
        try:
            node = self._cluster.get_node_from_key(channel)
        except RedisClusterException:
            return None
        return None if node is None else node.name

    def connection(self, server: str) -> AbstractConnection:
        node = self._cluster.get_node(node_name=server)
        if node is None:
            raise ConnectionError(f"{server} has left the cluster")
        options: dict[str, Any] = {**node.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        return node.connection_class(**options)

    async def close(self) -> None:
        await self._cluster.aclose()
