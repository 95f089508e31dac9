"""Following a conversation from any position: the one clever file.

The order is everything: attach to the topic → read the log after the client's position → drop what overlaps → `CaughtUp` → live.
What is committed before we attach is in the log that we read; what is committed after it is announced to the topic, or leaves a
hole there that is filled from the log. "Read, then listen" would lose what falls between the two.

After the replay a subscriber is a cursor into the topic's tail. Whoever falls off the tail reads the log again, folded, and
goes on: slow means merged, never lost. Items join: each names the position of the one before it, whatever was left out between.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from db import runs
from db.engine import Database
from db.events import LogPage
from streams.hub import Hub, Topic
from vocabulary.events import CaughtUp, DeltaMode, Event, Item, Payload, ResetReason, StreamReset, ends_conversation, ends_run
from vocabulary.fold import shown
from vocabulary.runs import Run


def everything(_event: Event) -> bool:
    return True


class Reader:
    def __init__(self, hub: Hub, database: Database, *, max_replay: int, clock: Callable[[], datetime]) -> None:
        self.hub = hub
        self.database = database
        self.max_replay = max_replay
        self.clock = clock
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Whoever waits for a run is answered at once. Streams are ended by closing their sockets: a completed stream would be a lie."""
        self._draining.set()

    async def follow(
        self,
        conversation_id: str,
        *,
        after: int | None,
        mode: DeltaMode,
        run: Run | None = None,
        accepts: Callable[[Event], bool] = everything,
    ) -> AsyncGenerator[Item]:
        """The items after a position, until the conversation is deleted or `run` has ended. What `accepts` refuses is left out, its
        numbers are not.

        `after` None: live from now; of a run None or 0: from its first event. Raises NoSuchConversation.
        """
        async with self.hub.topic(conversation_id) as topic:
            subscription = _Subscription(self, topic, mode, run, accepts)
            async with aclosing(subscription.items(after)) as items:
                async for item in items:
                    yield item

    async def wait_for_end(self, run: Run, *, seconds: float) -> None:
        """Returns when the run has ended, the time is over, or the server drains. Holds no connection meanwhile."""
        ended = asyncio.create_task(self._exhaust(run), name=f"wait for {run.id}")
        draining = asyncio.create_task(self._draining.wait(), name=f"drain of wait for {run.id}")
        try:
            await asyncio.wait({ended, draining}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            draining.cancel()
            await asyncio.wait({ended, draining})

    async def _exhaust(self, run: Run) -> None:
        async with aclosing(self.follow(run.conversation_id, after=None, mode=DeltaMode.NONE, run=run)) as items:
            async for _ in items:
                pass


@dataclass(slots=True)
class _Subscription:
    """`position`: up to where everything has been seen. `previous`: the position of the last item, which the next one names."""

    reader: Reader
    topic: Topic
    mode: DeltaMode
    run: Run | None
    accepts: Callable[[Event], bool]
    position: int = 0
    previous: int = 0

    async def items(self, after: int | None) -> AsyncGenerator[Item]:
        if (reset := await self._start(after)) is not None:
            yield self._made(reset)
        caught_up = False
        while True:
            known = self.topic.tail.after(self.position) if caught_up else None
            if known == []:
                await self.topic.changed()
                continue
            if known is None:
                page = await self._read()
                batch, end, head, over = page.events, page.end, page.head, page.deleted
            else:
                batch, end, head, over = shown(known, self.mode), known[-1].sequence, 0, False
            for event in batch:
                if self._wants(event):
                    yield self._item(event)
                if ends_conversation(event) or (self.run is not None and ends_run(event, self.run.id)):
                    return
            self.position = end
            if over and end >= head:  # and the event that says so lies behind where we began
                yield self._made(StreamReset(ResetReason.CONVERSATION_DELETED, head))
                return
            if not caught_up and end >= head:
                caught_up = True
                yield self._made(CaughtUp(head))
                if await self._is_over():
                    return

    async def _start(self, after: int | None) -> StreamReset | None:
        """Where to begin; a reset, and the head, when the log cannot be shown from where the client stands."""
        head = await self.reader.hub.head_of(self.topic.conversation_id)
        before_run = 0 if self.run is None else self.run.created_sequence - 1
        self.previous = after if after is not None else head if self.run is None else before_run
        self.position = max(self.previous, before_run)
        if self.previous > head:
            return self._reset(ResetReason.POSITION_AHEAD, head)
        if head - self.position > self.reader.max_replay and await self._backlog() > self.reader.max_replay:
            return self._reset(ResetReason.TOO_FAR_BEHIND, head)
        return None

    def _reset(self, reason: ResetReason, head: int) -> StreamReset:
        self.position = head
        self.reader.hub.metrics.stream_resets.labels(reason).inc()
        return StreamReset(reason, head)

    async def _backlog(self) -> int:
        """Durable events ahead of us, counted on our own run."""
        at_most = self.reader.max_replay + 1
        run_id = None if self.run is None else self.run.id
        hub, conversation_id = self.reader.hub, self.topic.conversation_id
        return await hub.patiently(lambda: hub.backlog(conversation_id, after=self.position, run_id=run_id, at_most=at_most))

    async def _read(self) -> LogPage:
        run_id = None if self.run is None else self.run.id
        hub, conversation_id = self.reader.hub, self.topic.conversation_id
        return await hub.patiently(lambda: hub.read(conversation_id, after=self.position, mode=self.mode, run_id=run_id))

    async def _is_over(self) -> bool:
        """Whether the event that ended our run lies behind us. Its number decides, not the row's status: what is still to come is shown."""
        if self.run is None:
            return False
        run_id = self.run.id
        run = await self.reader.hub.patiently(lambda: self._run(run_id))
        return run is not None and run.ended and run.sequence <= self.position

    async def _run(self, run_id: str) -> Run | None:
        async with self.reader.database.read() as connection:
            return await runs.get(connection, run_id)

    def _wants(self, event: Event) -> bool:
        concerns_us = self.run is None or event.run_id == self.run.id or isinstance(event.payload, StreamReset)
        return concerns_us and self.accepts(event)

    def _item(self, event: Event) -> Item:
        item = Item(event.sequence, self.previous, event.occurred_at, event.run_id, event.payload)
        self.previous = event.sequence
        if isinstance(event.payload, StreamReset):
            self.reader.hub.metrics.stream_resets.labels(event.payload.reason).inc()
        return item

    def _made(self, payload: Payload) -> Item:
        """An item that is not stored; it stands where everything before it has been seen."""
        item = Item(self.position, self.previous, self.reader.clock(), None, payload)
        self.previous = self.position
        return item
