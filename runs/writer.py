"""The worker's one writer: takes what all its runs have handed over and commits it together, again and again, without a timer.

One transaction is in flight at a time; what arrives meanwhile rides in the next, so a batch is as large as the database is slow.
Each run's part stands under its fence: a run whose head does not answer has lost its lease and is told so, the others go on. A head
that somebody else has locked is passed over and tried again with the next batch, and waited for beside the others in the end.
After a commit whose outcome is unknown the log says whether it happened: nothing is appended twice.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat

import structlog

from db import conversations, events, heads, messages, runs
from db.engine import Connection, DatabaseError, is_refusal
from db.events import Probe
from db.heads import Claim, Granted, Grants
from runs.advance import Lease
from runs.engine import Engine
from runs.writes import Append, EndStep, Rows, Write, lay_out, ordinals
from streams.log import Transaction
from vocabulary.conversations import ConversationStatus
from vocabulary.events import ConversationChanged, Event

log = structlog.get_logger()

_LONGEST_PART = 1000  # writes of one run in one batch
_RETRY_S = (0.05, 0.2, 1.0)
_MOST_SKIPS = 5


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


@dataclass(slots=True, eq=False)
class _Part:
    """What one run has in one batch. `doubt`: the last try to commit it, whose outcome nobody has told us."""

    pen: Pen
    writes: Sequence[Write]
    skips: int = 0
    done: bool = False
    doubt: "_Attempt | None" = None

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

    def settle(self) -> None:
        if not self.done:
            self.done = True
            self.pen.settled()

    def fail(self, failure: Exception) -> None:
        if not self.done:
            self.done = True
            self.pen.failed(failure)


@dataclass(slots=True, eq=False)
class _Attempt:
    """One try to commit. `surfaced`: earlier tries that turned out to have happened. `dead`: known never to have happened."""

    transaction: Transaction
    granted: dict[_Part, Granted]
    skipped: list[_Part]
    lost: list[_Part]
    surfaced: list["_Attempt"] = field(default_factory=list["_Attempt"])
    dead: bool = False

    def remember(self) -> None:
        """Should the outcome of the commit be unknown, this is what it would have been. Whoever was granted its head once more, with
        its write number as it was, knows that what was tried before has failed for good.
        """
        for part in self.granted:
            if part.doubt is not None:
                part.doubt.dead = True
            part.doubt = self

    def probe(self) -> Probe:
        """A number that only this try, of all that its run has written, can have given to its run: if that is in the log, so is all."""
        part, first = next(iter(self.granted.items()))
        return Probe(part.pen.conversation_id, first.first_sequence, part.pen.lease.run.id)


class Writer:
    """Run `run()` in a task of the worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pens: dict[Pen, None] = {}  # an ordered set: who has something to write
        self._skipped: list[_Part] = []
        self._stuck: deque[_Part] = deque()  # skipped too often: these wait for their locks, one after the other
        self._behind: set[Pen] = set()  # whose last part is skipped or stuck: what follows it must wait
        self._expected = asyncio.Event()
        self._waiting_for_locks = False

    def expect(self, pen: Pen) -> None:
        self._pens[pen] = None
        self._expected.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._expected.wait()
                self._expected.clear()
                while parts := self._batch():
                    for part in await self._commit(parts):
                        self._put_off(part)
                    if self._stuck and not self._waiting_for_locks:
                        tasks.create_task(self._wait_for_locks(), name="writer of what was skipped too often")

    def _batch(self) -> list[_Part]:
        """What was skipped, then what is new of all others, in the order in which heads are locked."""
        ready = [pen for pen in self._pens if pen not in self._behind]
        parts = [*self._skipped, *(_Part(pen, pen.take()) for pen in ready if pen.waiting)]
        self._behind.difference_update(part.pen for part in self._skipped)
        self._skipped = []
        self._pens = {pen: None for pen in self._pens if pen in self._behind or pen.waiting}
        return sorted(parts, key=lambda part: part.pen.conversation_id)

    def _put_off(self, part: _Part) -> None:
        """Into the next batch; when that has been tried often enough, to where it may wait without anybody behind it."""
        part.skips += 1
        self._behind.add(part.pen)
        self._pens[part.pen] = None
        if part.skips <= _MOST_SKIPS:
            self._skipped.append(part)
        else:
            self._stuck.append(part)

    async def _wait_for_locks(self) -> None:
        """One part and one transaction at a time: a head that is locked for long must not hold up those that are locked for less."""
        self._waiting_for_locks = True
        while self._stuck:
            part = self._stuck.popleft()
            if await self._commit([part], patient=True):
                self._stuck.append(part)
            else:
                self._behind.discard(part.pen)
                self._expected.set()
        self._waiting_for_locks = False

    async def _commit(self, parts: Sequence[_Part], *, patient: bool = False) -> list[_Part]:
        """Tries until the parts are committed, refused or lost. Waits out a database that is away. Answers what was skipped.

        `patient`: waits for locks, and gives up for now when that takes too long.
        """
        for delay_s in chain(_RETRY_S, repeat(_RETRY_S[-1])):
            try:
                return await self._try(parts, patient=patient)
            except (*DatabaseError, ValueError, TypeError) as error:  # ValueError: text that has no UTF-8
                if is_refusal(error):
                    return await self._divide(parts, error)
                log.warning("a batch was not committed, or nobody knows; trying again", runs=len(parts), error=str(error))
            await asyncio.sleep(delay_s)
            if patient:
                break
        return [part for part in parts if not part.done]

    async def _try(self, parts: Sequence[_Part], *, patient: bool) -> list[_Part]:
        if doubts := _doubts(parts):
            async with self._engine.database.read() as connection:
                self._happened(await self._found(connection, doubts))
        left = [part for part in parts if not part.done]
        if not left:
            return []
        attempt = await self._attempt(left, patient=patient)
        self._happened(attempt.surfaced)
        for part in attempt.granted:
            part.settle()
        for part in attempt.lost:
            part.fail(LeaseLost(part.pen.lease.run.id))
        return attempt.skipped

    async def _attempt(self, parts: Sequence[_Part], *, patient: bool) -> _Attempt:
        async with self._engine.log.transaction() as transaction:
            grants = await heads.grant(transaction.connection, [part.claim() for part in parts], patient=patient)
            attempt = _sorted_out(parts, grants, transaction)
            if doubts := _doubts(attempt.lost):
                attempt.surfaced = await self._found(transaction.connection, doubts)
            if attempt.granted:
                await self._store(attempt)
            attempt.remember()
        return attempt

    async def _found(self, connection: Connection, doubts: Sequence[_Attempt]) -> list[_Attempt]:
        found = await events.found(connection, [doubt.probe() for doubt in doubts])
        return [doubt for doubt in doubts if doubt.probe() in found]

    def _happened(self, surfaced: Sequence[_Attempt]) -> None:
        for attempt in surfaced:
            self._engine.log.announce(attempt.transaction)
            for part in attempt.granted:
                part.settle()

    async def _store(self, attempt: _Attempt) -> None:
        transaction, rows = attempt.transaction, Rows()
        for part, first in attempt.granted.items():
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
            if conversation.status is ConversationStatus.RUNNING:  # somebody waits in line
                await self._engine.dispatcher.defer(transaction, conversation.id)

    async def _divide(self, parts: Sequence[_Part], error: Exception) -> list[_Part]:
        """One run's data must not stop the others of its batch."""
        if len(parts) == 1:
            log.error("what a run wrote was refused", run_id=parts[0].pen.lease.run.id, error=str(error))
            parts[0].fail(WriteRefused(str(error)))
            return []
        return [left for part in parts if not part.done for left in await self._commit([part])]


def _doubts(parts: Sequence[_Part]) -> list[_Attempt]:
    return list(dict.fromkeys(part.doubt for part in parts if not part.done and part.doubt is not None and not part.doubt.dead))


def _sorted_out(parts: Sequence[_Part], grants: Grants, transaction: Transaction) -> _Attempt:
    granted: dict[_Part, Granted] = {}
    skipped: list[_Part] = []
    lost: list[_Part] = []
    for part in parts:
        if (first := grants.granted.get(part.pen.conversation_id)) is not None:
            granted[part] = first
        else:
            (skipped if part.pen.conversation_id in grants.skipped else lost).append(part)
    return _Attempt(transaction, granted, skipped, lost)
