"""A process to be killed: the engine on a given database, which tells on its output what it sees, a line of JSON for each event.

`python -m tests.runs.victim '{"url": …, "base_url": …, "say": [...]}'` talks to the model at `base_url`; with `conversation` in place of
`say` it goes on with what others have left. Its one tool never comes back.
"""

import asyncio
import json
import sys
from contextlib import aclosing
from typing import Any

import structlog

from db.engine import Database
from llm.endpoints import CompatibleServer
from llm.registry import ModelRegistry
from runs.tools import Arguments, ServerTool, ToolContext
from runs.worker import WorkerLimits
from tests.rig import Rig, rig
from vocabulary.events import DeltaMode, MessageDelta, ToolCallChanged


def tell(**line: object) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


async def _endless(_arguments: Arguments, _context: ToolContext) -> str:
    tell(tool="runs")
    await asyncio.Event().wait()
    return "never"


async def main(asked: dict[str, Any]) -> None:
    database = Database.open(asked["url"])
    models = ModelRegistry(servers={"local": CompatibleServer(base_url=asked["base_url"])})
    tool = ServerTool(name="endless", description="Takes its time.", parameters={"type": "object"}, run=_endless)
    limits = WorkerLimits(sole=database.is_sqlite, lease_s=1, reconcile_s=0.1)
    async with rig(database, models=models, tools=[tool], worker_limits=limits) as parley:
        await _tell_everything(parley, asked.get("conversation") or await _begin(parley, asked["say"]))


async def _begin(parley: Rig, words: list[str]) -> str:
    conversation = await parley.conversation(model="local/m", tools=["endless"])
    sent = [await parley.say(conversation.id, text) for text in words]
    tell(conversation=conversation.id, runs=[one.run.id for one in sent])
    return conversation.id


async def _tell_everything(parley: Rig, conversation_id: str) -> None:
    async with aclosing(parley.reader.follow(conversation_id, after=0, mode=DeltaMode.ALL)) as items:
        async for item in items:
            match item.payload:
                case MessageDelta(text=text):
                    tell(sequence=item.sequence, delta=text)
                case ToolCallChanged(tool_call=call):
                    tell(sequence=item.sequence, call=call.state)
                case other:
                    tell(sequence=item.sequence, kind=type(other).__name__)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(json.loads(sys.argv[1])))
