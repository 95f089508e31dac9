"""The bus between processes: Redis pub/sub, one channel for each topic and for each process that heeds signals, one line for all channels
of a server.

Nothing is kept in Redis. What it loses (a restart, a flush, a line that broke) is a doubt, which the hub settles from the log.
How to hear is told in `redis_line.py`, how to announce in `redis_outbox.py`, which servers there are in `redis_servers.py`.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

import structlog

from streams.bus import BusStatus, Listener, Listeners, ListListener, list_topic, tenant_of
from streams.codec import decode, decode_list, encode, encode_list
from streams.redis_line import AWAY, Line, RedisLimits
from streams.redis_outbox import Outbox
from streams.redis_servers import ClusterServers, Servers, SingleServer, Speaker
from vocabulary.events import Event
from vocabulary.lists import ListItem

log = structlog.get_logger()


@dataclass(slots=True)
class _Wish:
    """One attached topic. `line` None: not known yet which server holds it. `doubtful`: somebody went on without the confirmation."""

    line: Line | None = None
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    doubtful: bool = False


class RedisBus:
    """Start `run()` in a task of its own; until then, and while Redis is away, attaching waits and announcements are kept for a while."""

    def __init__(self, url: str, *, cluster: bool = False, prefix: str = "parley:", limits: RedisLimits | None = None) -> None:
        self._limits = limits or RedisLimits()
        self._servers: Servers = ClusterServers(url, self._limits) if cluster else SingleServer(url)
        self._outboxes: dict[str, Outbox] = {}  # by server; "" is for channels of which nobody knows yet who holds them
        self._speakers: dict[str, Speaker] = {}
        self._announcing: dict[str, asyncio.Task[None]] = {}
        self.prefix = prefix
        self._listeners = Listeners()
        self._wishes: dict[str, _Wish] = {}
        self._recipients: dict[str, Callable[[str], None]] = {}  # by recipient, whose channel is a wish like any other
        self._lines: dict[str, tuple[Line, asyncio.Task[None]]] = {}
        self._trouble = asyncio.Event()
        self._received = 0

    def listen(self, listener: Listener) -> None:
        self._listeners.to_events = listener

    def listen_to_lists(self, listener: ListListener) -> None:
        self._listeners.to_lists = listener

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_lines(tasks), name="lines to Redis")
        finally:
            await self._servers.close()

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        for event in events:
            self._put(self.prefix + event.conversation_id, encode(event))
        for item in lists:
            self._put(self.prefix + list_topic(item.tenant), encode_list(item))

    async def attach(self, topic: str) -> None:
        wish = self._wishes.setdefault(topic, _Wish())
        self._place(topic, wish)
        try:
            await wish.confirmed.wait()
        except asyncio.CancelledError:
            wish.doubtful = True
            raise

    def detach(self, topic: str) -> None:
        wish = self._wishes.pop(topic, None)
        if wish is not None and wish.line is not None:
            wish.line.unwish(self.prefix + topic)

    def is_attached(self, topic: str) -> bool:
        wish = self._wishes.get(topic)
        return wish is not None and wish.confirmed.is_set()

    def heed(self, recipient: str, told: Callable[[str], None]) -> None:
        self._recipients[recipient] = told
        self._place(recipient, self._wishes.setdefault(recipient, _Wish()))

    def unheed(self, recipient: str) -> None:
        self._recipients.pop(recipient, None)
        self.detach(recipient)

    def signal(self, recipient: str, subject: str) -> None:
        self._put(self.prefix + recipient, subject.encode())

    def status(self) -> BusStatus:
        lines = [line for line, _ in list(self._lines.values())]  # also asked from the thread of a worker's metrics
        outboxes = self._outboxes.copy()
        failing = any(box.failing for server, box in outboxes.items() if server in self._lines)  # a node that has left fails nobody
        return BusStatus(
            connected=bool(lines) and all(line.connected for line in lines) and not (failing or self._some_are_homeless),
            published=sum(box.published for box in outboxes.values()),
            dropped=sum(box.dropped for box in outboxes.values()),
            received=self._received,
            reconnects=sum(max(line.connects - 1, 0) for line in lines),
        )

    # ---- one line for each server, each topic on the line of its server

    async def _keep_lines(self, tasks: asyncio.TaskGroup) -> None:
        """After trouble another server may hold a topic: who is there is learnt again, and less and less often while nobody holds it."""
        failures = 0
        while True:
            self._trouble.clear()
            try:
                self._keep(await self._servers.learn(), tasks)
                failures = failures + 1 if self._some_are_homeless else 0
            except AWAY as error:
                if not failures:
                    log.warning("Redis does not tell who is there; asking again", error=str(error))
                failures += 1
            if failures:
                self._trouble.set()
            await asyncio.sleep(self._limits.backoff_s(failures))
            await self._trouble.wait()

    def _keep(self, servers: Set[str], tasks: asyncio.TaskGroup) -> None:
        for gone in self._lines.keys() - servers:
            self._lines.pop(gone)[1].cancel()
            self._announcing.pop(gone).cancel()
        for new in servers - self._lines.keys():
            line = Line(partial(self._servers.connection, new), self, self._limits, sharded=self._servers.sharded)
            self._lines[new] = line, tasks.create_task(line.run(), name=f"line to Redis {new}")
            self._announcing[new] = tasks.create_task(self._announce(new), name=f"outbox to Redis {new}")
        self._move_what_waits()
        for topic, wish in self._wishes.items():
            self._place(topic, wish)

    @property
    def _some_are_homeless(self) -> bool:
        """Whether there is something to hear or to say in slots that nobody serves."""
        nowhere = self._outboxes.get("")
        return any(wish.line is None for wish in list(self._wishes.values())) or (nowhere is not None and nowhere.waits)

    # ---- one outbox for each server, so that one that is away holds up nothing that others could announce

    def _outbox(self, server: str) -> Outbox:
        if server not in self._outboxes:
            speaker = Speaker(partial(self._servers.connection, server), "SPUBLISH" if self._servers.sharded else "PUBLISH", self._limits)
            self._speakers[server] = speaker
            self._outboxes[server] = Outbox(speaker.say, self._limits, failed=self._trouble.set)
        return self._outboxes[server]

    def _put(self, channel: str, data: bytes) -> None:
        holder = self._servers.holder(channel)
        if holder is None:
            self._trouble.set()
        self._outbox(holder or "").put(channel, data)

    async def _announce(self, server: str) -> None:
        try:
            await self._outbox(server).run()
        finally:
            await self._speakers[server].close()

    def _move_what_waits(self) -> None:
        """Slots have other holders now than when it was put in."""
        for server, outbox in list(self._outboxes.items()):
            for channel, data in outbox.take_back(lambda channel, here=server: (self._servers.holder(channel) or "") != here):
                self._put(channel, data)

    def _place(self, topic: str, wish: _Wish) -> None:
        channel = self.prefix + topic
        line, _ = self._lines.get(self._servers.holder(channel) or "", (None, None))
        if wish.line is line:
            return
        if wish.line is not None:
            wish.line.unwish(channel)
            self._unconfirm([topic])
        wish.line = line
        if line is None:
            self._trouble.set()
        else:
            line.wish(channel)

    def _unconfirm(self, topics: Iterable[str]) -> None:
        heard = [topic for topic in topics if self.is_attached(topic)]
        for topic in heard:
            self._wishes[topic].confirmed.clear()
            self._wishes[topic].doubtful = True
        self._doubt(heard)

    def _doubt(self, topics: Collection[str]) -> None:
        self._listeners.doubt([topic for topic in topics if topic not in self._recipients])  # a signal that was lost is nobody's loss

    # ---- what lines tell

    def message(self, channel: str, data: bytes) -> None:
        topic = channel.removeprefix(self.prefix)
        if (told := self._recipients.get(topic)) is not None:
            self._received += 1
            told(data.decode())
            return
        if topic not in self._wishes:
            return
        self._received += 1
        tenant = tenant_of(topic)
        was_read = self._tell_event(topic, data) if tenant is None else self._tell_list(tenant, data)
        if not was_read:
            self._doubt([topic])

    def _tell_event(self, topic: str, data: bytes) -> bool:
        """False: it cannot be read."""
        announcement = decode(topic, data)
        if announcement is not None and self._listeners.to_events is not None:
            self._listeners.to_events.heard(announcement)
        return announcement is not None

    def _tell_list(self, tenant: str, data: bytes) -> bool:
        item = decode_list(tenant, data)
        if item is not None and self._listeners.to_lists is not None:
            self._listeners.to_lists.heard(item)
        return item is not None

    def confirmed(self, line: Line, channel: str) -> None:
        topic = channel.removeprefix(self.prefix)
        wish = self._wishes.get(topic)
        if wish is None or wish.line is not line:
            return
        wish.confirmed.set()
        if wish.doubtful:
            wish.doubtful = False
            self._doubt([topic])

    def broken(self, line: Line, channels: Collection[str]) -> None:
        topics = [channel.removeprefix(self.prefix) for channel in channels]
        self._unconfirm(topic for topic in topics if topic in self._wishes and self._wishes[topic].line is line)
        self._trouble.set()
