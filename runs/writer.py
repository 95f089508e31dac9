"""The worker's one writer: takes what all its runs have handed over and commits it together, again and again, without a timer.

One transaction is in flight at a time; what arrives meanwhile rides in the next, so a batch is as large as the database is slow.
Each run's part stands under its fence: a run whose head does not answer has lost its lease and is told so, the others go on.
After a commit whose outcome is unknown the write number on the head says whether it happened: nothing is appended twice.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import structlog

from db import conversations, heads, messages, runs
from db.engine import DatabaseError, is_refusal
from db.heads import Claim, Granted
from runs.advance import Lease
from runs.engine import Engine
from runs.writes import Append, EndStep, Rows, Write, lay_out, ordinals
from streams.log import Transaction
from vocabulary.events import ConversationChanged, Event

log = structlog.get_logger()

_LONGEST_PART = 1000  # writes of one run in one batch
_RETRY_S = (0.05, 0.2, 1.0)


class LeaseLost(Exception):
    """Somebody else has ended this run, or goes on with it."""


class WriteRefused(Exception):
    """The database will not take what this run wrote; no repetition would change that."""


class Pen:
    """One run's way to the writer. Writing never waits for the database; `flush` and `room` do."""

    def __init__(self, lease: Lease, writer: "Writer") -> None:
        self.lease = lease
        self.write_number = 0
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
        while self.failure is None and len(self.waiting) > _LONGEST_PART:
            await self._progress.wait()

    def take(self) -> list[Write]:
        part, self.waiting = self.waiting[:_LONGEST_PART], self.waiting[_LONGEST_PART:]
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

    def _wake(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()


@dataclass(frozen=True, slots=True)
class _Part:
    """What one run has in one batch."""

    pen: Pen
    writes: Sequence[Write]

    @property
    def ends(self) -> bool:
        return isinstance(last := self.writes[-1], EndStep) and last.run.ended

    def claim(self) -> Claim:
        """A part that ends its run takes one number more, for the conversation."""
        return Claim(
            conversation_id=self.pen.conversation_id,
            run_id=self.pen.lease.run.id,
            fence=self.pen.lease.fence,
            write_number=self.pen.write_number,
            sequences=len(self.writes) + self.ends,
            ordinals=ordinals(self.writes),
        )


@dataclass(slots=True)
class _Attempt:
    """One try to commit: which parts still held their lease, and what will have to be announced."""

    granted: list[_Part]
    transaction: Transaction


class Writer:
    """Run `run()` in a task of the worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pens: dict[Pen, None] = {}  # an ordered set: who has something to write
        self._expected = asyncio.Event()

    def expect(self, pen: Pen) -> None:
        self._pens[pen] = None
        self._expected.set()

    async def run(self) -> None:
        while True:
            await self._expected.wait()
            self._expected.clear()
            while self._pens:
                # A pen may have failed since it was last written with: it holds nothing then.
                parts = [_Part(pen, pen.take()) for pen in self._pens if pen.waiting]
                self._pens = {part.pen: None for part in parts if part.pen.waiting}
                await self._commit(sorted(parts, key=lambda part: part.pen.conversation_id))

    async def _commit(self, parts: Sequence[_Part]) -> None:
        """Tries until the parts are committed, refused, or lost. Waits out a database that is away."""
        attempts: list[_Attempt] = []
        for delay_s in chain(_RETRY_S, repeat(_RETRY_S[-1])):
            try:
                if await self._happened(parts, attempts):
                    return
                earlier, attempt = list(attempts), await self._attempt(parts, attempts)
                # A commit that was under way when we looked keeps this one waiting, and then refuses it: the lease is not lost.
                if len(attempt.granted) == len(parts) or not await self._happened(parts, earlier):
                    self._settle(parts, attempt)
                return
            except (*DatabaseError, ValueError, TypeError) as error:  # ValueError: text that has no UTF-8
                if is_refusal(error):
                    return await self._divide(parts, error)
                log.warning("a batch was not committed, or nobody knows; trying again", runs=len(parts), error=str(error))
            await asyncio.sleep(delay_s)

    async def _attempt(self, parts: Sequence[_Part], attempts: list[_Attempt]) -> _Attempt:
        async with self._engine.log.transaction() as transaction:
            granted = await heads.grant(transaction.connection, [part.claim() for part in parts])
            attempt = _Attempt([part for part in parts if part.pen.conversation_id in granted], transaction)
            if attempt.granted:
                await self._store(attempt, granted)
            # Remembered before the commit: should its outcome be unknown, this is what it would have been.
            attempts.append(attempt)
        return attempt

    async def _store(self, attempt: _Attempt, granted: dict[str, Granted]) -> None:
        transaction, rows = attempt.transaction, Rows()
        for part in attempt.granted:
            first = granted[part.pen.conversation_id]
            lay_out(
                rows,
                part.writes,
                run=part.pen.lease.run,
                first_sequence=first.first_sequence,
                first_ordinal=first.first_ordinal,
                places=part.pen.places,
                now=transaction.now,
            )
        await messages.create(transaction.connection, rows.created)
        await messages.close(transaction.connection, rows.closed, now=transaction.now)
        await messages.change(transaction.connection, rows.changed)
        await runs.create_steps(transaction.connection, rows.started_steps)
        await runs.save_steps(transaction.connection, rows.ended_steps)
        await runs.save(transaction.connection, list(rows.runs.values()))
        transaction.extend(rows.events)
        if ended := [part.pen.conversation_id for part in attempt.granted if part.ends]:
            await self._end(transaction, ended)

    async def _end(self, transaction: Transaction, ended: Sequence[str]) -> None:
        """What ending runs means for their conversations; whoever is next in line may start."""
        times = {"last_message_at": transaction.now, "last_run_completed_at": transaction.now, "updated_at": transaction.now}
        await heads.release(transaction.connection, ended)
        await conversations.touch(transaction.connection, ended, times)
        for conversation in (await conversations.read(transaction.connection, ended)).values():
            changed = ConversationChanged(conversation)
            transaction.extend([Event(conversation.id, conversation.head_sequence, transaction.now, None, changed)])
            await self._engine.dispatcher.defer(transaction, conversation.id)

    async def _happened(self, parts: Sequence[_Part], attempts: list[_Attempt]) -> bool:
        """Whether one of the attempts whose commit was not answered has happened after all; settles the parts if so."""
        for attempt in attempts:
            async with self._engine.database.read() as connection:
                found = await heads.write_numbers(connection, [part.pen.conversation_id for part in attempt.granted])
            if any(found.get(part.pen.conversation_id) == _after(part) for part in attempt.granted):
                self._engine.log.announce(attempt.transaction)
                self._settle(parts, attempt)
                return True
        return False

    def _settle(self, parts: Sequence[_Part], attempt: _Attempt) -> None:
        granted = {part.pen for part in attempt.granted}
        for part in parts:
            if part.pen in granted:
                part.pen.settled()
            else:
                part.pen.failed(LeaseLost(part.pen.lease.run.id))

    async def _divide(self, parts: Sequence[_Part], error: Exception) -> None:
        """One run's data must not stop the others of its batch."""
        if len(parts) > 1:
            for part in parts:
                await self._commit([part])
        else:
            log.error("what a run wrote was refused", run_id=parts[0].pen.lease.run.id, error=str(error))
            parts[0].pen.failed(WriteRefused(str(error)))


def _after(part: _Part) -> tuple[str | None, int, int]:
    """What the head says once this part is committed: released if it ended its run, else one write further."""
    lease = part.pen.lease
    return (None, lease.fence + 1, part.pen.write_number + 1) if part.ends else (lease.run.id, lease.fence, part.pen.write_number + 1)
