"""A run that does nothing but compact, because somebody has asked for it."""

from dataclasses import dataclass

from db import agents, conversations, runs
from runs.close import Ending
from runs.compaction.compaction import Compaction, completed
from runs.engine import Engine
from runs.tools.toolbox import toolbox
from runs.writing.pen import Pen
from vocabulary.compaction import CompactionTrigger
from vocabulary.runs import RunStatus, StopReason


@dataclass(frozen=True, slots=True)
class CompactionRun:
    """A run of kind COMPACTION."""

    compaction: Compaction

    async def to_the_end(self) -> Ending | None:
        """None: the run has ended and everything is committed. Raises LeaseLost, WriteRefused."""
        engine = self.compaction.engine
        failure = await self.compaction.perform(lambda run: completed(run, engine, StopReason.END_TURN))
        if failure is None:
            return None
        return Ending(status=RunStatus.FAILED, stop_reason=failure.stop_reason, error=failure.error, usage=failure.usage)


async def load_compaction(engine: Engine, pen: Pen) -> CompactionRun:
    """Whatever an earlier worker did of it is done again."""
    run = pen.lease.run
    assert run.request.compaction is not None, "what a compaction is to do was told when it was asked for"
    async with engine.database.read() as connection:
        conversation = (await conversations.read(connection, [run.conversation_id]))[run.conversation_id]
        agent = await agents.get(connection, conversation.agent_id)
        steps = await runs.steps_of(connection, [run.id])
    given = () if agent is None else agent.tools
    tools = [tool.definition() for tool in toolbox(engine.tools, given, ()).values()]
    return CompactionRun(
        Compaction(
            engine=engine,
            pen=pen,
            run=run,
            settings=run.request.compaction,
            trigger=CompactionTrigger.MANUAL,
            steps_begun=len(steps),
            tools=tools,
        )
    )
