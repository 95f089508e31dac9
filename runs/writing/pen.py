"""One run's way to the writer: it writes without waiting, learns what was committed, and is told when it may write no more."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runs.writing.writes import Append, Write
from vocabulary.runs import Run

LONGEST_PART = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write for a run: valid while the head holds this run and this fence."""

    run: Run
    fence: int


class LeaseLost(Exception):
    """Somebody else has ended this run, or goes on with it."""


class WriteRefused(Exception):
    """The database will not take what this run wrote; no repetition would change that."""


class _Writer(Protocol):
    def expect(self, pen: "Pen") -> None:
        """The pen has something to write."""
        ...


class Pen:
    """One run's way to the writer. Writing never waits for the database; `flush` and `room` do."""

    def __init__(self, lease: Lease, writer: _Writer, *, lost: Callable[[], None] = lambda: None, longest_part: int = LONGEST_PART) -> None:
        """`lost` is called when the lease is found to be: whoever waits for a silent model would not learn of it by writing.
        `longest_part`: how many writes of this run are committed together at most.
        """
        self.lease = lease
        self._lost = lost
        self._longest_part = longest_part
        self.write_number = 0
        self.head_tid: str | None = None  # where our last batch left the head
        self.places: dict[str, int] = {}
        self.waiting: list[Write] = []
        self.failure: Exception | None = None
        self._writer = writer
        self._progress = asyncio.Event()
        self._in_flight = 0

    @property
    def conversation_id(self) -> str:
        return self.lease.run.conversation_id

    def write(self, *writes: Write) -> None:
        """Raises LeaseLost or WriteRefused when an earlier write has failed."""
        if self.failure is not None:
            raise self.failure
        for write in writes:
            self._add(write)
        self._writer.expect(self)

    def _add(self, write: Write) -> None:
        if isinstance(write, Append) and self.waiting and isinstance(last := self.waiting[-1], Append) and (together := last.joined(write)):
            self.waiting[-1] = together
        else:
            self.waiting.append(write)

    async def flush(self) -> None:
        """Returns when everything written so far is committed. Raises LeaseLost, WriteRefused."""
        while self.failure is None and (self.waiting or self._in_flight):
            await self._progress.wait()
        if self.failure is not None:
            raise self.failure

    async def room(self) -> None:
        """Waits while this run is too far ahead of the database."""
        while self.failure is None and len(self.waiting) > self._longest_part:
            await self._progress.wait()

    def take(self) -> list[Write]:
        part, self.waiting = self.waiting[: self._longest_part], self.waiting[self._longest_part :]
        self._in_flight = len(part)
        return part

    def settled(self) -> None:
        self._in_flight = 0
        self.write_number += 1
        self._wake()

    def failed(self, failure: Exception) -> None:
        self.failure = failure
        self.waiting.clear()
        self._wake()
        if isinstance(failure, LeaseLost):
            self._lost()

    def _wake(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
