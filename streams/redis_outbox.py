"""What waits to be announced through one server of Redis. Putting something in never waits and never fails; one task takes it out.

While the server is away the newest is kept, up to so many bytes; what is dropped is a delay for who listens, not a loss.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from streams.redis_line import AWAY, RedisLimits

log = structlog.get_logger()

Outgoing = tuple[str, bytes]
"""A channel and what to say there."""


class Outbox:
    """`deliver` sends a batch or raises; a batch that may have been sent is sent again. `failed` hears of each time. Run `run()`."""

    def __init__(
        self, deliver: Callable[[Sequence[Outgoing]], Awaitable[None]], limits: RedisLimits, *, failed: Callable[[], None] = lambda: None
    ) -> None:
        self.published = 0
        self.dropped = 0
        self.failing = False
        self._deliver = deliver
        self._failed = failed
        self._limits = limits
        self._waiting: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        self._batch: list[Outgoing] = []
        self._rung = asyncio.Event()

    @property
    def waits(self) -> bool:
        """Whether there is something that has not been announced."""
        return bool(self._batch or self._waiting)

    def put(self, channel: str, data: bytes) -> None:
        self._waiting.append((channel, data))
        self._waiting_bytes += len(data)
        while self._waiting_bytes > self._limits.queue_bytes:
            self._next()
            self.dropped += 1
        self._rung.set()

    def take_back(self, channel_is_elsewhere: Callable[[str], bool]) -> list[Outgoing]:
        """What this server can no longer announce, in order."""
        everything = [*self._batch, *self._waiting]
        moved = [outgoing for outgoing in everything if channel_is_elsewhere(outgoing[0])]
        if moved:
            self._batch = [outgoing for outgoing in self._batch if not channel_is_elsewhere(outgoing[0])]
            self._waiting = deque(outgoing for outgoing in self._waiting if not channel_is_elsewhere(outgoing[0]))
            self._waiting_bytes = sum(len(data) for _, data in self._waiting)
        return moved

    async def run(self) -> None:
        """Until cancelled; then once more, since what was committed last is what others wait for."""
        try:
            while True:
                await self._rung.wait()
                self._rung.clear()
                while self._take():
                    await self._insist()
        finally:
            with suppress(*AWAY):
                async with asyncio.timeout(self._limits.last_words_s):
                    while self._take():
                        await self._send()

    def _take(self) -> bool:
        """The next batch, unless one has not been sent yet. False: there is nothing to send."""
        while self._waiting and len(self._batch) < self._limits.batch:
            self._batch.append(self._next())
        return bool(self._batch)

    def _next(self) -> Outgoing:
        outgoing = self._waiting.popleft()
        self._waiting_bytes -= len(outgoing[1])
        return outgoing

    async def _insist(self) -> None:
        failures = 0
        while self._batch:
            try:
                await self._send()
            except AWAY as error:
                if not self.failing:
                    log.warning("announcements cannot be sent; trying again", error=str(error))
                self.failing = True
                failures += 1
                self._failed()
                await asyncio.sleep(self._limits.backoff_s(failures))

    async def _send(self) -> None:
        sent = self._batch
        await self._deliver(sent)
        self.published += len(sent)
        self.failing = False
        if self._batch is sent:
            self._batch = []
