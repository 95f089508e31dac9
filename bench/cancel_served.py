"""How long a cancel takes for a user: from the mutation, sent over HTTP, to the end of its run at a WebSocket; in every state of a run.

Of both deployments: one server with SQLite, and a server and a worker, each a process of its own, beside PostgreSQL and Redis. The
provider is in this process, so that one clock tells when it was hung up on, too. A worker can only die where there is one: where the
server does the work itself, whoever could be asked to cancel is gone with it. Every conversation is renamed first: what any mutation
takes until it is told of, on a machine that others use as well.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.client import Client, Socket, Unexpected, visiting
from bench.figures import Figure, percentiles
from bench.ground import Ground, sqlite_url
from bench.server import serving
from cluster.topology import WorkerProgram
from tests.provider import Answer, Call, Delivery, Provider, Request, said
from tests.runs.processes import worker
from tests.runs.tools.mcp.workshops import workshop
from vocabulary.runs import TERMINAL_STATUSES

TIMES = 100
DEATHS = 10  # each takes a new worker
LONGEST_S = 30.0

CANCEL_RUN = "mutation ($input: CancelRunInput!) { cancelRun(input: $input) { result { outcome } } }"
RENAME = "mutation ($input: UpdateConversationInput!) { updateConversation(input: $input) { conversation { id } } }"
SEND = "mutation ($input: SendMessageInput!) { sendMessage(input: $input) { run { id } } }"

URGENT = "Stop!"
DONE = Answer(text="Done.")
SILENT = Answer(text="Words.", stall_after=1)
AT_LENGTH = Answer(text="word " * 300, chunk_size=5, paced_s=0.01)

Item = Mapping[str, Any]
Sign = Callable[[Item], bool]
"""Of an item that a subscriber sees: it tells what is waited for."""


# ---- signs


def _runs(item: Item) -> bool:
    return item["payload"].get("status") == "RUNNING"


def _waits_in_line(item: Item) -> bool:
    return item["payload"].get("status") == "QUEUED"


def _is_over(item: Item) -> bool:
    return item["payload"].get("status") in TERMINAL_STATUSES


def _speaks(item: Item) -> bool:
    return item["payload"]["__typename"] == "MessageDelta"


def _is_changed(item: Item) -> bool:
    return item["payload"]["__typename"] == "ConversationChanged"


def _is_idle(item: Item) -> bool:
    return item["payload"].get("conversation", {}).get("status") == "IDLE"


def _call_is(state: str) -> Sign:
    return lambda item: item["payload"].get("toolCall", {}).get("state") == state


# ---- what is done to a run


@dataclass(frozen=True, slots=True)
class Followed:
    """A conversation with its one follower."""

    client: Client
    socket: Socket
    conversation_id: str

    async def send(self, text: str = "Hi", **more: str) -> str:
        """The run's id."""
        sent = await self.client.ask(SEND, conversationId=self.conversation_id, messages=[{"text": text}], **more)
        return sent["run"]["id"]

    async def renamed(self) -> float:
        """Seconds until it was told."""
        started = time.perf_counter()
        asking = asyncio.create_task(self.client.ask(RENAME, id=self.conversation_id, summary="Another title"), name="rename")
        await self.until(_is_changed)
        told = time.perf_counter()
        await asking
        return told - started

    async def until(self, sign: Sign, run_id: str | None = None) -> None:
        """What other runs do meanwhile is passed over."""
        async with asyncio.timeout(LONGEST_S):
            while True:
                _, item = await self.socket.item()
                if item["runId"] in (run_id, None) and sign(item):
                    return


Act = Callable[[Followed, str], Coroutine[Any, Any, bool]]
"""Ends a run. Answers whether it was in time."""


async def _cancel(followed: Followed, run_id: str) -> bool:
    return (await followed.client.ask(CANCEL_RUN, id=run_id))["result"]["outcome"] == "CANCELLED"


async def _cancel_twice(followed: Followed, run_id: str) -> bool:
    return any(await asyncio.gather(_cancel(followed, run_id), _cancel(followed, run_id)))


async def _interrupt(followed: Followed, _: str) -> bool:
    await followed.send(URGENT, whenBusy="INTERRUPT")
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`answer`: the provider's. `is_there`: the state, once the provider was asked, too, unless it is `early`. `behind`: another run.

    `is_over`: all of these are seen, in their order. `hangs_up`: on the provider. `may_be_late`: to cancel anything.
    """

    answer: Delivery
    is_there: Sign
    early: bool = False
    behind: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    act: Act = _cancel
    is_over: tuple[Sign, ...] = (_is_over,)
    hangs_up: bool = False
    may_be_late: bool = False


WRITING = State(answer=AT_LENGTH, is_there=_speaks, hangs_up=True)
STATES = {
    "queued": State(answer=SILENT, is_there=_waits_in_line, behind=True),
    "before the first token": State(answer=SILENT, is_there=_runs, early=True),
    "in the middle of tokens": WRITING,
    "in a silent model call": State(answer=SILENT, is_there=_runs, hangs_up=True),
    "in a long tool": State(answer=Answer(tool_calls=[Call("dry")]), is_there=_call_is("RUNNING"), tools=({"name": "dry"},)),
    "awaiting approval": State(
        answer=Answer(tool_calls=[Call("current_time")]),
        is_there=_is_over,
        tools=({"name": "current_time", "requiresApproval": True},),
        is_over=(_call_is("DENIED"), _is_idle),
    ),
    "twice at once": State(answer=AT_LENGTH, is_there=_speaks, act=_cancel_twice, hangs_up=True),
    "just finishing": State(answer=DONE, is_there=_speaks, may_be_late=True),
    "by INTERRUPT": State(answer=AT_LENGTH, is_there=_speaks, act=_interrupt, hangs_up=True),
}


# ---- measuring


@dataclass(frozen=True, slots=True)
class Place:
    """A deployment, from outside."""

    client: Client
    provider: Provider


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds since the mutation was sent. `hung_up`: None where nobody had called. `renamed`: the conversation, before."""

    renamed: float
    over: float
    hung_up: float | None
    in_time: bool


async def cancel_embedded(ground: Ground) -> list[Figure]:
    async with Provider() as provider, _settings(provider) as settings:
        with ground.file() as path:
            async with serving(sqlite_url(path), **settings) as server, visiting(server.url) as client:
                return await _of_all(Place(client, provider))


async def cancel_distributed(ground: Ground) -> list[Figure]:
    async with (
        Provider() as provider,
        _settings(provider) as settings,
        ground.servers() as servers,
        serving(servers.database_url, REDIS_URL=servers.redis_url, **settings) as server,
        worker(servers, LEASE_S="60", LOG_LEVEL="WARNING", **settings) as hand,
        visiting(server.url) as client,
    ):
        place = Place(client, provider)
        return [*await _of_all(place), *await _of_a_dying_worker(place, hand)]


@asynccontextmanager
async def _settings(provider: Provider) -> AsyncGenerator[dict[str, str]]:
    """The model `local/m`, and the tool `dry`, which takes for ever."""
    with TemporaryDirectory(prefix="parley-bench-") as folder:
        async with workshop(Path(folder), over="http") as tools:
            yield {
                "PROVIDERS": json.dumps({"local": {"base_url": provider.base_url}}),
                "MCP_SERVERS": json.dumps({"workshop": {"url": f"http://127.0.0.1:{tools.port}/mcp"}}),
            }


async def _of_all(place: Place) -> list[Figure]:
    figures, renamed = list[Figure](), list[float]()
    for name, state in STATES.items():
        agent_id = await place.client.agent(model="local/m", tools=list(state.tools))
        await _once(place, agent_id, state)
        taken = [await _once(place, agent_id, state) for _ in range(TIMES)]
        figures += _told(name, state, taken)
        renamed += [one.renamed for one in taken]
    return [*figures, *percentiles("a conversation is renamed", renamed)]


def _told(label: str, state: State, taken: Sequence[Taken]) -> list[Figure]:
    figures = percentiles(label, [one.over for one in taken])
    if state.hangs_up:
        figures += percentiles(f"{label}, model hung up on", [one.hung_up for one in taken if one.hung_up is not None])
    if state.may_be_late:
        figures.append(Figure(f"{label}, in time", sum(one.in_time for one in taken), f"of {len(taken)}"))
    return figures


async def _of_a_dying_worker(place: Place, hand: WorkerProgram) -> list[Figure]:
    """Killed right before the mutation is sent, while it writes tokens."""
    agent_id, taken = await place.client.agent(model="local/m"), list[float]()
    for _ in range(DEATHS):
        taken.append((await _once(place, agent_id, WRITING, at_last=lambda: hand.signal(signal.SIGKILL))).over * 1000)
        await hand.ended()
        await hand.start()
    label = "of a worker that just died"
    return [Figure(f"{label}, p50", median(taken), "ms"), Figure(f"{label}, longest of {DEATHS}", max(taken), "ms")]


async def _once(place: Place, agent_id: str, state: State, *, at_last: Callable[[], None] = lambda: None) -> Taken:
    """`at_last`: what happens right before the mutation is sent."""
    provider = place.provider

    def answer(request: Request) -> Delivery:
        return DONE if said(request) == URGENT else state.answer

    provider.otherwise = answer
    asked = len(provider.requests)
    async with _following(place.client, agent_id) as followed:
        renamed = await followed.renamed()
        first = await followed.send() if state.behind else None
        run_id = await followed.send()
        await followed.until(state.is_there, run_id)
        if not state.early:
            await provider.until(lambda: len(provider.requests) > asked)
        hanging_up = asyncio.create_task(_hung_up(provider, provider.requests[-1]), name="hanging up") if state.hangs_up else None
        at_last()
        started = time.perf_counter()
        acting = asyncio.create_task(state.act(followed, run_id), name="cancel")
        for sign in state.is_over:
            await followed.until(sign, run_id)
        over = time.perf_counter() - started
        in_time = await acting
        if not (in_time or state.may_be_late):
            raise Unexpected("the run had ended before it was cancelled")
        if first is not None:
            await _cancel(followed, first)
        return Taken(renamed, over, None if hanging_up is None else await hanging_up - started, in_time)


@asynccontextmanager
async def _following(client: Client, agent_id: str) -> AsyncGenerator[Followed]:
    conversation_id = await client.conversation(agent_id)
    async with client.socket() as socket:
        await socket.follow(conversation_id, deltas="ALL")
        await socket.until("CaughtUp")
        yield Followed(client, socket, conversation_id)


async def _hung_up(provider: Provider, request: Request) -> float:
    """When."""
    await provider.until(lambda: any(one is request for one in reversed(provider.disconnects)))
    return time.perf_counter()
