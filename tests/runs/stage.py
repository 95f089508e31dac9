"""One engine for walks through the state machine: with a puppet for its model and its tools, and a worker that can be killed.

Whoever does something there waits until all is quiet again: then everybody waits for the puppet, and a witness was told of everything.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cluster.postgres import fresh_database
from db.migrate import upgrade
from llm.model import ModelRequest, UserTurn
from runs.engine import Engine
from runs.workers.dispatch import LocalDispatcher
from runs.workers.jobs import JobDispatcher, Jobs
from runs.workers.worker import Worker, WorkerLimits
from tests.db.patience import PATIENT
from tests.llm.listening import Providers, listening
from tests.puppet import Puppet, Talk
from tests.rig import Rig, rig
from tests.runs.consistency import Shown, shown
from tests.runs.doubt import Mortal
from tests.runs.scripted import Models
from tests.runs.witness import Held, Witness
from vocabulary.messages import MessageType, TextPart, ToolCallBody, ToolCallState
from vocabulary.runs import Run, RunKind, Step

SETTLED_S = 20.0


class Crew:
    """The workers of one engine, one at a time: the next one begins where the one before was stopped, or killed."""

    def __init__(self, engine: Engine, database: Mortal) -> None:
        self._engine = engine
        self.database = database
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """It finds what was left at its start, and nothing afterwards but what it is told of."""
        worker = Worker(self._engine, WorkerLimits(sole=True, reconcile_s=600))
        self._tasks = [asyncio.create_task(worker.run(), name="worker")]
        if isinstance(self._engine.dispatcher, LocalDispatcher):
            self._engine.dispatcher.serve(worker.advance_soon)
        else:
            jobs = Jobs(self.database, worker, concurrency=20)
            self._tasks.append(asyncio.create_task(jobs.run(), name="jobs"))
        await worker.ready.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def crash(self) -> None:
        self.database.kill()
        await self.stop()
        self.database.revive()


class Stage:
    """One running engine for all examples, each in a conversation of its own."""

    def __init__(self, runner: asyncio.Runner, parley: Rig, puppet: Puppet, crew: Crew, providers: Providers) -> None:
        self.runner, self.parley, self.puppet, self.crew, self.providers = runner, parley, puppet, crew, providers
        self.numbers = count(1)

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(SETTLED_S):
                return await coroutine

        return self.runner.run(bounded())

    async def settled(self, witness: Witness) -> Shown:
        """Everybody waits for us: the model or a tool of the run that is active, or nobody. And everybody was told so."""
        bell, rings = self.puppet.bell, -1
        while True:
            await bell.until(lambda: bell.rings != rings and self._may_be_settled(witness.look()))  # noqa: B023  (awaited here)
            rings = bell.rings
            seen = await shown(self.parley, witness.held.conversation.id, log=False)
            if witness.held.position == seen.head.head_sequence and self._is_settled(seen):
                return seen

    def _may_be_settled(self, held: Held) -> bool:
        """What can be known without asking the database."""
        at_work = {one.owner for one in [*self.puppet.talks, *self.puppet.works]}
        return all(talk.waits for talk in self.puppet.talks) and at_work == {owner_of(held.runs[id_]) for id_ in held.running}

    def _is_settled(self, seen: Shown) -> bool:
        """Also that the log holds all that was done so far."""
        at_work = {one.owner for one in [*self.puppet.talks, *self.puppet.works]}
        if seen.active is None:
            return not at_work and not seen.may_go_on
        running = sum(call.state is ToolCallState.RUNNING for call in seen.calls)
        if at_work != {owner_of(seen.active)} or running != len(self.puppet.works):
            return False
        return all(talk.waits and self._is_told(seen, talk) for talk in self.puppet.talks)

    def _is_told(self, seen: Shown, talk: Talk) -> bool:
        owners = {run.id: owner_of(run) for run in seen.runs}
        steps = [step for step in seen.steps if owners[step.run_id] == talk.owner]
        if len(steps) != self.puppet.steps[talk.owner]:
            return False
        return seen.active is None or seen.active.kind is RunKind.COMPACTION or self._is_written(seen, talk)

    def _is_written(self, seen: Shown, talk: Talk) -> bool:
        written = [message for message in seen.messages if message.step_id == talk_step(seen).id]
        calls = [call for message in written if isinstance(message.body, ToolCallBody) for call in message.body.tool_calls]
        said = sum(len(message.text) for message in written) + sum(len(call.arguments_text) for call in calls)
        return said == talk.said and talk.before == sum(message.type is MessageType.EVENT for message in written)


def talk_step(seen: Shown) -> Step:
    """Those before it are over, or were abandoned."""
    return [step for step in seen.steps if step.run_id == seen.head.active_run_id][-1]


def owner_of(run: Run) -> int:
    """By which the puppet knows it."""
    own = None if run.request.compaction is None else run.request.compaction.model_settings
    return (own or run.request.settings).max_output_tokens or 0


@asynccontextmanager
async def staged(runner: asyncio.Runner, to_copy: tuple[str, str] | None, folder: Path) -> AsyncGenerator[Stage]:
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{folder}/parley.db"
        if to_copy is not None:
            url = await stack.enter_async_context(fresh_database(to_copy[0], template=to_copy[1]))
        database = Mortal.open(url, postgres=PATIENT)
        database.revive()
        stack.push_async_callback(database.close)
        await upgrade(database)
        puppet = Puppet()
        parley = await stack.enter_async_context(rig(database, models=Models(puppet), tools=puppet.tools(), works=False))
        dispatcher = LocalDispatcher() if database.is_sqlite else JobDispatcher()
        parley = replace(parley, engine=replace(parley.engine, dispatcher=dispatcher, max_attempts=1000))
        crew = Crew(parley.engine, database)
        await crew.begin()
        stack.push_async_callback(crew.stop)
        providers = await stack.enter_async_context(listening())
        await providers.take(ModelRequest(system="", history=[UserTurn((TextPart("Are you there?"),))]))  # loads their libraries
        yield Stage(runner, parley, puppet, crew, providers)
