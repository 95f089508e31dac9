"""A process to be killed: the engine on a given database, which tells on its output what it sees, a line of JSON for each event.

`python -m tests.runs.victim '{"url": …, "base_url": …, "say": [...]}'` talks to the model at `base_url`; with `conversation` in place of
`say` it goes on with what others have left, and with `approve` it approves the calls that wait there. Its one tool never comes back;
with `asks` it needs an approval.
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
from runs.commands.approvals import Approve
from runs.commands.respond import Answer, Respond, respond
from runs.tools.registry import Arguments, ServerTool, ToolContext
from runs.workers.worker import WorkerLimits
from tests.db.patience import PATIENT
from tests.rig import TENANT, Rig, rig
from tests.runs.consistency import shown
from vocabulary.events import ConversationChanged, DeltaMode, MessageDelta, ToolCallChanged


def tell(**line: object) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


async def _endless(_arguments: Arguments, _context: ToolContext) -> str:
    tell(tool="runs")
    await asyncio.Event().wait()
    return "never"


async def main(asked: dict[str, Any]) -> None:
    database = Database.open(asked["url"], postgres=PATIENT)
    models = ModelRegistry(servers={"local": CompatibleServer(base_url=asked["base_url"])})
    anything, asks = {"type": "object"}, asked.get("asks", False)
    tool = ServerTool(name="endless", description="Takes its time.", parameters=anything, run=_endless, requires_approval=asks)
    limits = WorkerLimits(sole=database.is_sqlite, lease_s=1, reconcile_s=0.1)
    async with rig(database, models=models, tools=[tool], worker_limits=limits) as parley:
        conversation_id = asked.get("conversation") or await _begin(parley, asked["say"])
        if asked.get("approve"):
            await _approve(parley, conversation_id)
        await _tell_everything(parley, conversation_id)


async def _begin(parley: Rig, words: list[str]) -> str:
    conversation = await parley.conversation(model="local/m", tools=["endless"])
    sent = [await parley.say(conversation.id, text) for text in words]
    tell(conversation=conversation.id, runs=[one.run.id for one in sent])
    return conversation.id


async def _approve(parley: Rig, conversation_id: str) -> None:
    waiting = (await shown(parley, conversation_id)).waiting
    answers = tuple(Answer(tool_call_id=call.id, decision=Approve()) for call in waiting)
    done = await respond(parley.engine, TENANT, Respond(conversation_id=conversation_id, answers=answers))
    tell(approved=done.run.id)


async def _tell_everything(parley: Rig, conversation_id: str) -> None:
    async with aclosing(parley.reader.follow(conversation_id, after=0, mode=DeltaMode.ALL)) as items:
        async for item in items:
            match item.payload:
                case MessageDelta(text=text):
                    tell(sequence=item.sequence, delta=text)
                case ToolCallChanged(tool_call=call):
                    tell(sequence=item.sequence, call=call.state)
                case ConversationChanged(conversation=conversation):
                    tell(sequence=item.sequence, conversation_is=conversation.status)
                case other:
                    tell(sequence=item.sequence, kind=type(other).__name__)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(json.loads(sys.argv[1])))
