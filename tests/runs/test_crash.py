"""kill -9 in the middle of an answer, of a real process: what was said is there, the run goes on or is over, the next send works."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from db import runs
from db.engine import Database
from llm.endpoints import CompatibleServer
from llm.registry import ModelRegistry
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from tests.db.patience import PATIENT
from tests.provider import Answer, Call, Provider, Request, echo
from tests.rig import Rig, rig
from tests.runs.consistency import consistent, shown
from tests.runs.logs import call_states, checked, only
from vocabulary.messages import MessageStatus, MessageType, ToolReturnBody, ToolReturnStatus
from vocabulary.runs import Run, RunErrorType, RunStatus

PIECES = ["Once ", "upon ", "a ", "time"]
ROOT = Path(__file__).parents[2]

Line = dict[str, Any]


@dataclass(slots=True)
class Victim:
    process: asyncio.subprocess.Process
    lines: list[Line] = field(default_factory=list[Line])

    async def until(self, seen: Callable[[Line], bool], *, seconds: float = 30) -> Line:
        """Reads its output up to the first line that satisfies."""
        assert self.process.stdout
        async with asyncio.timeout(seconds):
            while raw := await self.process.stdout.readline():
                self.lines.append(json.loads(raw))
                if seen(self.lines[-1]):
                    return self.lines[-1]
        raise AssertionError(f"it ended by itself: {self.lines}")

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def last_words(self) -> list[Line]:
        """What it had said when it was killed, and nobody has read yet."""
        assert self.process.stdout
        return [json.loads(raw) for raw in (await self.process.stdout.read()).splitlines(keepends=True) if raw.endswith(b"\n")]


@asynccontextmanager
async def victim(provider: Provider, database_url: str, **asked: object) -> AsyncGenerator[Victim]:
    told = json.dumps({"url": database_url, "base_url": provider.base_url, **asked})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.runs.victim", told, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Victim(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def restarted(provider: Provider, database_url: str, *, tools: tuple[ServerTool, ...] = ()) -> AsyncGenerator[Rig]:
    """The next process on the same database: alone on SQLite; on PostgreSQL it waits for the lease of the one before to end."""
    database = Database.open(database_url, postgres=PATIENT)
    limits = WorkerLimits(sole=database.is_sqlite, lease_s=1, reconcile_s=0.1)
    models = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})
    async with rig(database, models=models, tools=tools, worker_limits=limits) as parley:
        yield parley
    await database.close()


async def _ended(parley: Rig, run_id: str) -> Run:
    async with parley.database.read() as connection:
        found = await runs.get(connection, run_id)
    assert found is not None
    return await parley.ended(found)


async def test_after_a_kill_the_words_are_there_and_the_run_goes_on(provider: Provider, database_url: str) -> None:
    provider.script(Answer(text=PIECES, gates={3: asyncio.Event()}))
    async with victim(provider, database_url, say=["First", "Second"]) as process:
        begun = await process.until(lambda line: "runs" in line)
        await process.until(lambda line: str(line.get("delta")).endswith("upon "))
        await process.kill()
    async with restarted(provider, database_url) as parley:
        cut, waiting = [await _ended(parley, run_id) for run_id in begun["runs"]]
        assert (cut.status, cut.attempt) == (RunStatus.COMPLETED, 2)
        assert (waiting.status, waiting.attempt) == (RunStatus.COMPLETED, 1)
        await checked(parley, begun["conversation"])
        history = await parley.history(begun["conversation"])
        assert [(message.text, message.status, message.in_context) for message in history[1:]] == [
            ("First", MessageStatus.COMPLETED, True),
            ("Once upon ", MessageStatus.INTERRUPTED, False),
            ("You said: First", MessageStatus.COMPLETED, True),
            ("Second", MessageStatus.COMPLETED, True),
            ("You said: Second", MessageStatus.COMPLETED, True),
        ]
        assert [message["content"] for message in provider.requests[1].body["messages"]] == ["Be brief.", "First"]
        following = await parley.say(begun["conversation"], "Third")
        assert (await parley.ended(following.run)).status is RunStatus.COMPLETED
        assert len(provider.requests) == 4


async def test_after_a_kill_in_a_tool_it_is_not_run_again(provider: Provider, database_url: str) -> None:
    blows: list[Arguments] = []

    async def strike(arguments: Arguments, _context: ToolContext) -> str:
        blows.append(arguments)
        return "struck again"

    provider.script(Answer(text="Let me.", tool_calls=[Call("endless", "{}")]), Answer(text="So be it."))
    async with victim(provider, database_url, say=["Hit it"]) as process:
        begun = await process.until(lambda line: "runs" in line)
        await process.until(lambda line: line.get("tool") == "runs")
        await process.kill()
    tool = ServerTool(name="endless", description="Hits.", parameters={"type": "object"}, run=strike)
    async with restarted(provider, database_url, tools=(tool,)) as parley:
        run = await _ended(parley, begun["runs"][0])
        assert (run.status, run.attempt, blows) == (RunStatus.COMPLETED, 2, [])
        log, history = await checked(parley, begun["conversation"]), await parley.history(begun["conversation"])
        assert call_states(log) == ["INTERRUPTED"] * 4
        returned = only(history, MessageType.TOOL_RETURN).body
        assert isinstance(returned, ToolReturnBody)
        assert (returned.tool_returns[0].status, history[-1].text) == (ToolReturnStatus.ERROR, "So be it.")
        assert [message["role"] for message in provider.requests[1].body["messages"]] == ["system", "user", "assistant", "tool"]
        assert "outcome is unknown" in provider.requests[1].body["messages"][-1]["content"]


@pytest.mark.timeout(180)
async def test_after_three_kills_the_run_has_failed(provider: Provider, database_url: str) -> None:
    def falls_silent(_request: Request) -> Answer:
        return Answer(text=PIECES, stall_after=3)

    provider.otherwise = falls_silent
    asked: dict[str, object] = {"say": ["Hi"]}
    begun: Line = {}
    for attempt in (1, 2, 3):
        async with victim(provider, database_url, **asked) as process:
            begun = begun or await process.until(lambda line: "runs" in line)
            for _ in range(attempt):
                await process.until(lambda line: str(line.get("delta")).endswith("upon "))
            await process.kill()
        asked = {"conversation": begun["conversation"]}
    provider.otherwise = echo
    async with restarted(provider, database_url) as parley:
        run = await _ended(parley, begun["runs"][0])
        assert run.error is not None
        assert (run.status, run.error.type, run.attempt) == (RunStatus.FAILED, RunErrorType.WORKER_LOST, 3)
        await checked(parley, begun["conversation"])
        following = await parley.say(begun["conversation"], "Are you there?")
        assert (await parley.ended(following.run)).status is RunStatus.COMPLETED
        assert [message["content"] for message in provider.requests[-1].body["messages"]] == [
            "Be brief.",
            "Hi",
            "Once upon ",
            "Are you there?",
        ]


# ---- calls that wait


async def _asks(provider: Provider, database_url: str) -> str:
    """A conversation whose process was killed while a call waited there for an approval."""
    provider.script(Answer(text="Let me.", tool_calls=[Call("endless", "{}")]), Answer(text="So be it."))
    async with victim(provider, database_url, say=["Hit it"], asks=True) as process:
        begun = await process.until(lambda line: "runs" in line)
        await process.until(lambda line: line.get("conversation_is") == "AWAITING_INPUT")
        await process.kill()
    return begun["conversation"]


def _strikes(blows: list[Arguments]) -> ServerTool:
    async def strike(arguments: Arguments, _context: ToolContext) -> str:
        blows.append(arguments)
        return "struck"

    return ServerTool(name="endless", description="Hits.", parameters={"type": "object"}, run=strike, requires_approval=True)


async def test_what_waits_outlives_a_kill_and_what_was_approved_then_is_not_run_again_after_the_next(
    provider: Provider, database_url: str
) -> None:
    conversation_id, blows = await _asks(provider, database_url), list[Arguments]()
    async with victim(provider, database_url, conversation=conversation_id, approve=True, asks=True) as process:
        approved = await process.until(lambda line: "approved" in line)
        await process.until(lambda line: line.get("tool") == "runs")
        await process.kill()
    async with restarted(provider, database_url, tools=(_strikes(blows),)) as parley:
        run = await _ended(parley, approved["approved"])
        assert (run.status, run.attempt, blows) == (RunStatus.COMPLETED, 2, [])
        await checked(parley, conversation_id)
        consistent(await shown(parley, conversation_id))
        returned = only(await parley.history(conversation_id), MessageType.TOOL_RETURN).body
        assert isinstance(returned, ToolReturnBody)
        assert (returned.tool_returns[0].status, len(provider.requests)) == (ToolReturnStatus.ERROR, 2)
        assert "outcome is unknown" in provider.requests[1].body["messages"][-1]["content"]


async def test_killed_as_soon_as_it_was_approved_the_tool_is_run_once_at_most(provider: Provider, database_url: str) -> None:
    conversation_id, blows = await _asks(provider, database_url), list[Arguments]()
    async with victim(provider, database_url, conversation=conversation_id, approve=True, asks=True) as process:
        approved = await process.until(lambda line: "approved" in line)
        await process.kill()
        begun = sum(line.get("tool") == "runs" for line in await process.last_words())
    async with restarted(provider, database_url, tools=(_strikes(blows),)) as parley:
        assert (await _ended(parley, approved["approved"])).status is RunStatus.COMPLETED
        assert len(blows) + begun <= 1
        await checked(parley, conversation_id)
        consistent(await shown(parley, conversation_id))
