"""kill -9 of a real process between any two writes of the loop, and around every outward effect: nothing is done twice, all goes on.

`KILL_AFTER_COMMITS=1` kills right after each commit, too.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from cluster.postgres import fresh_database
from db import agents, messages
from db.engine import Database
from db.migrate import upgrade
from llm.model import ModelRequest
from runs.prompt import turns
from tests.db.patience import PATIENT
from tests.llm.formats import chat_completions
from tests.llm.listening import listening
from tests.provider import Answer, Call, Provider, Request
from tests.rig import Rig, rig
from tests.runs.consistency import Shown, consistent, shown
from tests.runs.doomed import BLOCK, EFFECTS
from tests.runs.logs import checked
from vocabulary.messages import (
    Message,
    MessageStatus,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
)
from vocabulary.runs import RunStatus

AFTER_COMMITS = bool(os.environ.get("KILL_AFTER_COMMITS"))
ROOT = Path(__file__).parents[2]
ENDS = {
    *((name, *end) for name in ("strike", "saw") for end in [("not run", 0), ("unknown", 0), ("unknown", 1), ("done", 1)]),
    *(("memory_append", *end) for end in [("not run", 0), ("unknown", 0), ("done", 1)]),
    *(("camera", *end) for end in [("not run", 0), ("done", 0)]),
}
"""All ways in which a call may end: the tool, what the model is told, and how often it was done here. A camera is the client's."""


def _answer(request: Request) -> Answer:
    """Twice it asks for tools, each call with a tag of its own; then it has heard enough."""

    def call(name: str, **more: str) -> Call:
        return Call(name, json.dumps({"tag": uuid4().hex} | more), id=uuid4().hex)

    match sum(message["role"] == "tool" for message in request.body["messages"]):
        case 0:
            noted = Call("memory_append", json.dumps({"label": BLOCK, "content": uuid4().hex}), id=uuid4().hex)
            return _in_one_piece("Let me.", call("strike"), noted, call("strike"))
        case 3:
            return _in_one_piece("", call("saw"), call("camera"))
        case _:
            return _in_one_piece("So be it.")


def _in_one_piece(text: str, *calls: Call) -> Answer:
    return Answer(text=text, tool_calls=calls, chunk_size=1000)


# ---- the sweep


@pytest_asyncio.fixture
async def urls(postgres_to_copy: tuple[str, str] | None, tmp_path: Path) -> AsyncGenerator[list[str]]:
    """A database for each chain: on SQLite as many as there are processors to keep busy, on PostgreSQL, where leases must end, more."""
    async with AsyncExitStack() as stack:
        if postgres_to_copy is not None:
            server, template = postgres_to_copy
            yield [await stack.enter_async_context(fresh_database(server, template=template)) for _ in range(6)]
            return
        found = [f"sqlite+aiosqlite:///{tmp_path}/{number}.db" for number in range(2)]
        for url in found:
            database = Database.open(url, postgres=PATIENT)
            await upgrade(database)
            await database.close()
        yield found


@pytest.mark.timeout(900 if AFTER_COMMITS else 600)
async def test_wherever_a_process_is_killed_nothing_is_done_twice_and_all_goes_on(
    provider: Provider, urls: list[str], tmp_path: Path
) -> None:
    provider.otherwise = _answer
    told = {"urls": urls, "base_url": provider.base_url, "folder": str(tmp_path), "after_commits": AFTER_COMMITS}
    lines = await _until_they_live(told)
    begun = {line["number"]: line for line in lines if "conversation" in line}
    lived = {line["number"]: line["points"] for line in lines if "points" in line}
    assert set(range(1, lived[0] + 1)) <= begun.keys() - lived.keys()
    for request in provider.requests:
        chat_completions(request.body)
    seen = _Seen(effects=Counter((tmp_path / EFFECTS).read_text().split()))
    assert set(seen.effects.values()) == {1}
    for url in urls:
        database = Database.open(url, postgres=PATIENT)
        async with rig(database, works=False) as parley:
            for line in begun.values():
                if line["url"] == url:
                    await seen.look(parley, line["conversation"])
        await database.close()
    assert seen.effects.total() == seen.known
    assert seen.ends == ENDS
    async with listening() as providers:
        for request in seen.requests.values():
            await providers.take(request)


async def _until_they_live(told: dict[str, Any]) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.runs.doomed", json.dumps(told)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # itself and what it has forked
        await process.wait()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


# ---- what must be true of each conversation


@dataclass(slots=True)
class _Seen:
    """`effects`: how often there is a mark of each tag. `ends`: of calls, as tool, what the model was told, and how often it was done."""

    effects: Counter[str]
    known: int = 0
    ends: set[tuple[str, str, int]] = field(default_factory=set[tuple[str, str, int]])
    requests: dict[str, ModelRequest] = field(default_factory=dict[str, ModelRequest])

    async def look(self, parley: Rig, conversation_id: str) -> None:
        await checked(parley, conversation_id)
        now = await shown(parley, conversation_id)
        consistent(now)
        assert {run.status for run in now.runs} == {RunStatus.COMPLETED}
        assert all(run.attempt <= 2 for run in now.runs)
        assert now.history[-1].text == "So be it."
        await self._count(parley, now)
        await self._note_requests(parley, now)

    async def _count(self, parley: Rig, now: Shown) -> None:
        """What the model is told of a call is true, and of no other call there is a trace."""
        async with parley.database.read() as connection:
            [block] = await agents.blocks_by_agent(connection, [now.conversation.agent_id])
        marks = self.effects + Counter(block.value.split())
        answered = list(_answered(now.history))
        for call, returned in answered:
            told, times = _told(returned), marks[_tag(call)]
            assert (call.name, told, times) in ENDS
            self.ends.add((call.name, told, times))
        self.known += sum(self.effects[_tag(call)] for call, _ in answered)
        assert len(block.value.split()) == sum(_tag(call) in block.value for call, _ in answered)

    async def _note_requests(self, parley: Rig, now: Shown) -> None:
        """What it was shown at each of its steps; of those that differ in ids only, one."""
        async with parley.database.read() as connection:
            context = [message for message in await messages.context(connection, now.conversation) if message.in_tail]
        for place in _starts(context):
            history = turns(context[:place])
            self.requests.setdefault(re.sub("[0-9a-f]{32}", "", repr(history)), ModelRequest(system="Be brief.", history=history))


def _answered(history: Sequence[Message]) -> Iterator[tuple[ToolCall, ToolReturn]]:
    bodies = [message.body for message in history if message.type is MessageType.TOOL_RETURN]
    returns = {item.tool_call_id: item for body in bodies if isinstance(body, ToolReturnBody) for item in body.tool_returns}
    for message in history:
        if message.type is MessageType.TOOL_CALL and message.status is MessageStatus.COMPLETED and isinstance(message.body, ToolCallBody):
            yield from ((call, returns[call.id]) for call in message.body.tool_calls)


def _told(returned: ToolReturn) -> str:
    if returned.status is ToolReturnStatus.SUCCESS:
        return "done"
    return next(told for told in ("not run", "unknown") if told in returned.output)


def _tag(call: ToolCall) -> str:
    arguments = json.loads(call.arguments_text)
    return arguments.get("tag") or arguments["content"]


def _starts(context: Sequence[Message]) -> list[int]:
    """Where the model was asked: before what it then said."""
    steps = [message.step_id for message in context]
    return [place for place, step in enumerate(steps) if step is not None and step not in steps[:place]]
