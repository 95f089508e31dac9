"""A line: one connection of this process to one Redis server, on which all its topics there are heard.

Redis confirms each SUBSCRIBE among the messages, in the order of asking: a channel is heard once the answer to what was asked last has
been read. Only one task asks, so that nothing is asked out of order; only one reads. The library's own PubSub is not used: it connects
again silently, and then nobody learns that messages were lost. A line that breaks says what it heard until then, and begins anew.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, cast

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

log = structlog.get_logger()

Command = tuple[str, ...]

AWAY = (RedisError, OSError)
"""What talking to Redis raises when it is not there, or is not itself. Their own timeouts are among them, and asyncio's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisLimits:
    """`silence_s`: a line on which nothing comes for so long is broken, though it is asked something every `ping_s`."""

    queue_bytes: int = 8 << 20
    batch: int = 500
    timeout_s: float = 2.0
    ping_s: float = 2.0
    silence_s: float = 5.0
    first_backoff_s: float = 0.05
    longest_backoff_s: float = 2.0
    last_words_s: float = 1.0

    def backoff_s(self, failures: int) -> float:
        """Full jitter: those who lost the same server do not come back at the same moment."""
        return random.uniform(0, min(self.longest_backoff_s, self.first_backoff_s * 2 ** min(failures, 10)))


class Ears(Protocol):
    """Whom a line tells; called from the line's tasks, must not wait."""

    def message(self, channel: str, data: bytes) -> None: ...

    def confirmed(self, line: "Line", channel: str) -> None:
        """From now on the channel is heard."""
        ...

    def broken(self, line: "Line", channels: Collection[str]) -> None:
        """It could not be made, or what was heard on it no longer is."""
        ...


class Line:
    """`sharded`: channels are those of a cluster's shards. `connected`: it was answered, in words that are understood. Run `run()` in a
    task.
    """

    def __init__(self, connect: Callable[[], AbstractConnection], ears: Ears, limits: RedisLimits, *, sharded: bool) -> None:
        self.connected = False
        self.connects = 0
        self._connect = connect
        self._ears = ears
        self._limits = limits
        self._subscribe, self._unsubscribe = ("SSUBSCRIBE", "SUNSUBSCRIBE") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE")
        self._at_once = 1 if sharded else 500  # the channels of one sharded command must share a slot
        self._wished: set[str] = set()
        self._changed: set[str] = set()  # wishes that the asking task has not seen
        self._rung = asyncio.Event()
        self._asked: set[str] = set()  # those whose last command was to subscribe
        self._unanswered: Counter[str] = Counter()  # by channel, commands
        self._heard: set[str] = set()
        self._answered_at = 0.0

    def wish(self, channel: str) -> None:
        """`Ears.confirmed` will follow, and follow again after each break."""
        self._wished.add(channel)
        self._change(channel)
        if channel in self._heard:
            self._ears.confirmed(self, channel)

    def unwish(self, channel: str) -> None:
        self._wished.discard(channel)
        self._change(channel)

    def _change(self, channel: str) -> None:
        self._changed.add(channel)
        self._rung.set()

    async def run(self) -> None:
        """Until cancelled: connects, hears, connects again."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._hear()
            except* AWAY as errors:
                failures = 1 if time.monotonic() - began > self._limits.silence_s else failures + 1
                if failures == 1:
                    log.warning("no line to Redis; making it again", error=str(errors.exceptions[0]))
            await asyncio.sleep(self._limits.backoff_s(failures))

    async def _hear(self) -> None:
        connection = self._connect()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await connection.connect()
            self._begin()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(connection), name="asking Redis")
                both.create_task(self._listen(connection), name="listening to Redis")
        finally:
            self._end()
            await connection.disconnect(nowait=True)

    def _begin(self) -> None:
        """A new connection has been asked nothing, and hears nothing."""
        self._asked.clear()
        self._unanswered.clear()
        self._changed |= self._wished
        self._answered_at = time.monotonic()
        self.connects += 1

    def _end(self) -> None:
        heard, self._heard = self._heard, set[str]()
        self.connected = False
        self._ears.broken(self, heard)

    async def _ask(self, connection: AbstractConnection) -> None:
        while True:
            self._rung.clear()
            commands = self._commands() or [("PING",)]
            async with asyncio.timeout(self._limits.timeout_s):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.ping_s):
                    await self._rung.wait()
            if time.monotonic() - self._answered_at > self._limits.silence_s:
                raise ConnectionError("Redis is silent")

    def _commands(self) -> list[Command]:
        """What takes the server from what was asked to what is wished."""
        changed, self._changed = self._changed, set()
        more = sorted((changed & self._wished) - self._asked)
        less = sorted((changed & self._asked) - self._wished)
        self._asked = (self._asked | set(more)) - set(less)
        self._heard -= set(less)
        self._unanswered.update((*more, *less))
        return [*self._parts(self._subscribe, more), *self._parts(self._unsubscribe, less)]

    def _parts(self, command: str, channels: list[str]) -> Iterable[Command]:
        for start in range(0, len(channels), self._at_once):
            yield (command, *channels[start : start + self._at_once])

    async def _listen(self, connection: AbstractConnection) -> None:
        while True:
            reply = cast("list[bytes] | bytes", await connection.read_response(timeout=math.inf, disconnect_on_error=False))
            match reply:
                case [b"message" | b"smessage", channel, data]:
                    self._ears.message(channel.decode(), data)
                case [b"subscribe" | b"ssubscribe" | b"unsubscribe" | b"sunsubscribe", channel, _]:
                    self._answered(channel.decode())
                case b"PONG" | [b"pong", _]:
                    pass
                case _:  # nothing that we asked for: as good as silence
                    continue
            self._answered_at = time.monotonic()
            self.connected = True

    def _answered(self, channel: str) -> None:
        """Answers come in the order of asking: the last one decides."""
        if channel not in self._unanswered:
            raise ConnectionError("Redis took a subscription away")  # a cluster does, when a slot moves
        self._unanswered[channel] -= 1
        if self._unanswered[channel]:
            return
        del self._unanswered[channel]
        if channel in self._asked:
            self._heard.add(channel)
            self._ears.confirmed(self, channel)
