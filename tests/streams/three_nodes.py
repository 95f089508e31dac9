"""A Redis cluster of three nodes, each of which holds a third of the slots, and which goes on with what it has when one is away."""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from cluster.redis import PATIENCE_S, RedisServer

_SHARES = ((0, 5460), (5461, 10922), (10923, REDIS_CLUSTER_HASH_SLOTS - 1))


@dataclass(frozen=True, slots=True)
class ThreeNodes:
    nodes: tuple[RedisServer, ...]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def holder(self, channel: str) -> RedisServer:
        slot = key_slot(channel.encode())
        return next(node for node, (first, last) in zip(self.nodes, _SHARES, strict=True) if first <= slot <= last)


@contextmanager
def three_nodes() -> Generator[ThreeNodes]:
    with ExitStack() as stack:
        cluster = ThreeNodes(tuple(stack.enter_context(RedisServer.running(cluster=True)) for _ in _SHARES))
        first = cluster.nodes[0]
        for node, (low, high) in zip(cluster.nodes, _SHARES, strict=True):
            for name, value in (("cluster-require-full-coverage", "no"), ("cluster-node-timeout", "1000")):
                assert node.ask("CONFIG", "SET", name, value) == b"+OK\r\n"
            assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(low), str(high)) == b"+OK\r\n"
            assert node.ask("CLUSTER", "MEET", "127.0.0.1", str(first.port), str(first.cluster_port)) == b"+OK\r\n"
        deadline = time.monotonic() + PATIENCE_S
        while not all(_complete(node) for node in cluster.nodes):
            assert time.monotonic() < deadline
        yield cluster


def _complete(node: RedisServer) -> bool:
    told = node.ask("CLUSTER", "INFO")
    return b"cluster_state:ok" in told and b"cluster_slots_ok:16384" in told and b"cluster_known_nodes:3" in told
