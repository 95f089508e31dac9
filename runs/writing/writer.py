"""The worker's one writer: takes what all its runs have handed over and commits it together, again and again, without a timer.

One transaction is in flight at a time; what arrives meanwhile rides in the next, so a batch is as large as the database is slow.
Each run's part stands under its fence: a run whose head does not answer has lost its lease and is told so, the others go on. A head
that somebody else has locked is passed over and tried again with the next batch, and waited for beside the others in the end.
After a commit whose outcome is unknown the log says whether it happened: nothing is appended twice.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from itertools import chain, repeat

import structlog

from db import conversations, events, heads, messages, runs
from db.engine import Connection, DatabaseError, is_refusal
from runs.engine import Engine
from runs.measured import note_end
from runs.writing.batch import Attempt, Part, doubts_of, sorted_out
from runs.writing.compiled import prompts
from runs.writing.pen import LeaseLost, Pen, WriteRefused
from runs.writing.writes import Rows, lay_out, recompiles
from streams.log import Transaction
from vocabulary.conversations import ConversationStatus
from vocabulary.events import ConversationChanged, Event

log = structlog.get_logger()

_RETRY_S = (0.05, 0.2, 1.0)
_MOST_SKIPS = 5


class Writer:
    """Run `run()` in a task of the worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pens: dict[Pen, None] = {}  # an ordered set: who has something to write
        self._skipped: list[Part] = []
        self._stuck: deque[Part] = deque()  # skipped too often: these wait for their locks, one after the other
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

    def _batch(self) -> list[Part]:
        """What was skipped, then what is new of all others, in the order in which heads are locked."""
        ready = [pen for pen in self._pens if pen not in self._behind]
        parts = [*self._skipped, *(Part(pen, pen.take()) for pen in ready if pen.waiting)]
        self._behind.difference_update(part.pen for part in self._skipped)
        self._skipped = []
        self._pens = {pen: None for pen in self._pens if pen in self._behind or pen.waiting}
        return sorted(parts, key=lambda part: part.pen.conversation_id)

    def _put_off(self, part: Part) -> None:
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

    async def _commit(self, parts: Sequence[Part], *, patient: bool = False) -> list[Part]:
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

    async def _try(self, parts: Sequence[Part], *, patient: bool) -> list[Part]:
        if doubts := doubts_of(parts):
            async with self._engine.database.read() as connection:
                self._happened(await self._found(connection, doubts))
        left = [part for part in parts if not part.done]
        if not left:
            return []
        began = time.perf_counter()
        attempt = await self._attempt(left, patient=patient)
        self._note(attempt, time.perf_counter() - began)
        self._happened(attempt.surfaced)
        for part, granted in attempt.granted.items():
            part.settle(granted)
        for part in attempt.lost:
            part.fail(LeaseLost(part.pen.lease.run.id))
        return attempt.skipped

    def _note(self, attempt: Attempt, elapsed_s: float) -> None:
        if attempt.granted:
            self._engine.metrics.batch_events.observe(len(attempt.transaction.appended))
            self._engine.metrics.batch_commit.observe(elapsed_s)

    async def _attempt(self, parts: Sequence[Part], *, patient: bool) -> Attempt:
        attempt = None
        try:
            async with self._engine.log.transaction() as transaction:
                attempt = await self._sort_out(transaction, parts, patient=patient)
                if attempt.granted:
                    await self._store(attempt)
                attempt.remember()
        except DatabaseError as error:
            if attempt is not None:
                attempt.dead = is_refusal(error)  # that is an answer: it was not committed
            raise
        return attempt

    async def _sort_out(self, transaction: Transaction, parts: Sequence[Part], *, patient: bool) -> Attempt:
        claims = {part: part.claim() for part in parts}
        grants = await heads.grant(transaction.connection, list(claims.values()), patient=patient)
        transaction.locked()
        attempt = sorted_out(claims, grants, transaction)
        attempt.bury()
        if doubts := doubts_of(attempt.lost):
            attempt.surfaced = await self._found(transaction.connection, doubts)
        return attempt

    async def _found(self, connection: Connection, doubts: Sequence[Attempt]) -> list[Attempt]:
        found = await events.found(connection, [doubt.probe() for doubt in doubts])
        return [doubt for doubt in doubts if doubt.probe() in found]

    def _happened(self, surfaced: Sequence[Attempt]) -> None:
        for attempt in surfaced:
            self._engine.log.announce(attempt.transaction)
            for part, granted in attempt.granted.items():
                part.settle(granted)

    async def _store(self, attempt: Attempt) -> None:
        transaction = attempt.transaction
        compiling = [part.pen.conversation_id for part in attempt.granted if recompiles(part.writes)]
        rows = Rows(prompts=await prompts(transaction.connection, compiling))
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
        await messages.tidy(transaction.connection, rows.tidied)
        await runs.create_steps(transaction.connection, rows.started_steps)
        await runs.save_steps(transaction.connection, rows.changed_steps)
        await runs.save(transaction.connection, list(rows.runs.values()))
        await conversations.wait_for(transaction.connection, rows.waiting)
        await conversations.move_contexts(transaction.connection, rows.moves)
        transaction.extend(rows.events)
        transaction.nonce = attempt.nonce
        for run in rows.runs.values():
            if run.ended:
                note_end(self._engine.metrics, transaction, run)
        if ended := [part.pen.conversation_id for part in attempt.granted if part.ends]:
            await self._end(transaction, ended)

    async def _end(self, transaction: Transaction, ended: Sequence[str]) -> None:
        """What ending runs means for their conversations; whoever is next in line may start."""
        times = {"last_message_at": transaction.now, "last_run_completed_at": transaction.now, "updated_at": transaction.now}
        versions = await heads.release(transaction.connection, ended)
        await conversations.touch(transaction.connection, ended, times)
        for conversation in (await conversations.read(transaction.connection, ended)).values():
            changed = ConversationChanged(conversation)
            transaction.extend([Event(conversation.id, conversation.head_sequence, transaction.now, None, changed)])
            transaction.list_released(conversation, versions[conversation.id])
            if conversation.status is ConversationStatus.RUNNING:  # somebody waits in line
                await self._engine.dispatcher.defer(transaction, conversation.id)

    async def _divide(self, parts: Sequence[Part], error: Exception) -> list[Part]:
        """One run's data must not stop the others of its batch."""
        if len(parts) == 1:
            log.error("what a run wrote was refused", run_id=parts[0].pen.lease.run.id, error=str(error))
            parts[0].fail(WriteRefused(str(error)))
            return []
        return [left for part in parts if not part.done for left in await self._commit([part])]
