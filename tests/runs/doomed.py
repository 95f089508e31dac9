"""Processes that die one after the other on the same database, each a point further on than the one before: kill -9, by their own hand.

A point lies before every commit that writes something, before a tool's outward effect and after it; with `after_commits` also right
after each commit. A run's writes are committed one at a time, so that there is a point between any two of them. Each process first goes
to the end with the conversation that the one before has left behind, then begins its own; a chain of them is over with the first that
lives. Users note what they are about to ask for, and ask for the same again when they were not told how it went.

`python -m tests.runs.doomed '{"urls": [...], "base_url": …, "folder": …, "after_commits": false}'`: a chain for each database. It tells
of each conversation on its output, a line of JSON each. The first process lives, and has everything loaded then: all others are its forks.
"""

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import event

from db.engine import Connection, Database
from llm.endpoints import CompatibleServer
from llm.registry import ModelRegistry
from runs.commands.agents import NewAgent, NewBlock, create_agent
from runs.commands.approvals import Approve, Result
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.respond import Answer, Respond, respond
from runs.tools.builtin.memory import memory_tools
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from tests.db.patience import PATIENT
from tests.rig import TENANT, Rig, rig
from tests.runs.consistency import shown
from tests.runs.victim import tell
from vocabulary.conversations import AgentTool
from vocabulary.messages import ToolSource
from vocabulary.runs import ClientTool, Run

BLOCK = "notes"
TAGGED: dict[str, Any] = {"type": "object", "properties": {"tag": {"type": "string"}}, "required": ["tag"]}
CAMERA = ClientTool(name="camera", description="Takes a picture.", parameters=TAGGED)
EFFECTS = "effects"

_TOOLS = ("strike", "saw", "memory_append")
_PROCESSES = get_context("fork")
_WRITING = frozenset({"INSERT", "UPDATE", "DELETE", "WITH"})


class Doomed(Database):
    """Kills its process at the point number `dies_at`, counted from 1 when `begins` was called."""

    dies_at: int | None = None
    after_commits: bool = False
    passed: int = 0

    def begins(self, dies_at: int) -> None:
        self.dies_at, self.passed = dies_at, 0

    def is_safe(self) -> None:
        self.dies_at = None

    def point(self) -> None:
        self.passed += 1
        if self.passed == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        """Who looks in vain whether there is something to do commits, too: that happens at any time, and is no point."""
        wrote = False

        def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
            nonlocal wrote
            wrote = wrote or statement.split(maxsplit=1)[0] in _WRITING

        def after() -> None:
            if wrote and self.after_commits:
                self.point()
            if committed is not None:
                committed()

        async with super().write(after) as connection:
            assert connection.sync_connection is not None
            event.listen(connection.sync_connection, "before_cursor_execute", note)
            yield connection
            if wrote:
                self.point()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    urls: list[str]
    base_url: str
    folder: Path
    after_commits: bool


# ---- one process


def _life(told: Told, url: str, number: int, left: int | None) -> None:
    asyncio.run(_live(told, url, number, left))


async def _live(told: Told, url: str, number: int, left: int | None) -> None:
    """Dies at its point, or tells how many it has come through. The first, which is not to die, is not hurried by its lease either."""
    database = Doomed.open(url, postgres=PATIENT)
    database.after_commits = told.after_commits
    models = ModelRegistry(servers={"local": CompatibleServer(base_url=told.base_url)})
    lease_s = 2 if number else 60
    limits = WorkerLimits(sole=database.is_sqlite, lease_s=lease_s, reconcile_s=0.2, prune_s=3600, longest_part=1)
    async with rig(database, models=models, tools=_tools(database, told.folder), worker_limits=limits) as parley:
        if left is not None:
            await User(parley, told.folder / f"{left}.json").converses()
        user = User(parley, told.folder / f"{number}.json")
        await user.arrives()
        tell(number=number, url=url, conversation=user.notes["conversation"])
        database.begins(number)
        await user.converses()
        database.is_safe()
        tell(number=number, points=database.passed)
    await database.close()


def _tools(database: Doomed, folder: Path) -> list[ServerTool]:
    async def strike(arguments: Arguments, _context: ToolContext) -> str:
        database.point()
        with (folder / EFFECTS).open("a") as effects:
            effects.write(f"{arguments['tag']}\n")
            effects.flush()
            os.fsync(effects.fileno())
        database.point()
        return "struck"

    def tool(name: str, *, asks: bool) -> ServerTool:
        return ServerTool(name=name, description="Leaves a mark.", parameters=TAGGED, run=strike, requires_approval=asks)

    return [tool("strike", asks=False), tool("saw", asks=True), *memory_tools()]


class User:
    """What it remembers outlives the process that it talks to."""

    def __init__(self, parley: Rig, path: Path) -> None:
        self._parley = parley
        self._path = path
        self.notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def _note(self, **more: object) -> None:
        self.notes |= more
        self._path.write_text(json.dumps(self.notes))

    async def arrives(self) -> None:
        given, block = tuple(AgentTool(name=name) for name in _TOOLS), NewBlock(label=BLOCK, value="")
        new = NewAgent(name="tester", model="local/m", tools=given, blocks=(block,), instructions="Be brief.")
        agent = await create_agent(self._parley.engine, TENANT, new)
        made = await create_conversation(self._parley.engine, TENANT, NewConversation(agent_id=agent.id))
        self._note(conversation=made.id)

    async def converses(self) -> None:
        """Says what it has to say, and answers what it is asked; as often as it is called."""
        asked = await self._parley.say(self.notes["conversation"], "Go", idempotency_key="go", body_hash="go", client_tools=(CAMERA,))
        await self._parley.ended(asked.run, seconds=60)
        if "calls" not in self.notes and (waiting := (await shown(self._parley, self.notes["conversation"])).waiting):
            self._note(calls={call.id: call.source is ToolSource.CLIENT for call in waiting})
        if "calls" in self.notes:
            await self._parley.ended(await self._answers(self.notes["calls"]), seconds=60)

    async def _answers(self, calls: dict[str, bool]) -> Run:
        answers = tuple(Answer(tool_call_id=id_, decision=Result("click") if mine else Approve()) for id_, mine in calls.items())
        request = Respond(conversation_id=self.notes["conversation"], answers=answers, idempotency_key="answer", body_hash="answer")
        return (await respond(self._parley.engine, TENANT, request)).run


# ---- one after the other


def _forked(does: Callable[..., None], *arguments: object) -> ForkProcess:
    forked = _PROCESSES.Process(target=does, args=arguments)
    forked.start()
    return forked


def _outcome(forked: ForkProcess) -> int:
    """Its exit code; of who was killed, the signal's number below zero."""
    forked.join()
    assert forked.exitcode is not None
    return forked.exitcode


def _chain(told: Told, first: int) -> None:
    """Of n chains each takes every n-th point."""
    left, outcome = None, -signal.SIGKILL
    numbers = count(first, len(told.urls))
    while outcome == -signal.SIGKILL:
        number = next(numbers)
        outcome = _outcome(_forked(_life, told, told.urls[first - 1], number, left))
        left = number
    sys.exit(outcome)


def main(told: Told) -> None:
    _life(told, told.urls[0], 0, None)
    gc.freeze()
    chains = [_forked(_chain, told, first) for first in range(1, len(told.urls) + 1)]
    outcomes = [_outcome(chain) for chain in chains]
    sys.exit(any(outcomes))


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asked = json.loads(sys.argv[1])
    main(Told(**asked | {"folder": Path(asked["folder"])}))
