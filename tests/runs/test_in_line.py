"""Twenty who send to one conversation at once: answered one after the other, in their order, each shown exactly what came before it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from db.engine import Database
from llm.model import AssistantTurn, ModelRequest, Turn, UserTurn
from runs.workers.jobs import Jobs
from streams.bus import Bus
from tests.rig import Rig, rig
from tests.runs.logs import checked
from tests.runs.scripted import Models, Scripted
from vocabulary.messages import TextPart
from vocabulary.runs import RunStatus

MANY = 20


async def test_beside_the_worker_of_the_process(database: Database, bus: Bus) -> None:
    model = Scripted()
    async with rig(database, bus=bus, models=Models(model)) as parley:
        await answered_in_line(parley, model)


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_through_jobs(database: Database, bus: Bus) -> None:
    model = Scripted()
    async with rig(database, bus=bus, models=Models(model), works=False) as parley, working(parley):
        await answered_in_line(parley, model)


@asynccontextmanager
async def working(parley: Rig) -> AsyncGenerator[None]:
    """A worker as `python -m runs` has it."""
    jobs = Jobs(parley.database, parley.worker, concurrency=MANY)
    machines = [asyncio.create_task(parley.worker.run(), name="worker"), asyncio.create_task(jobs.run(), name="jobs")]
    try:
        yield
    finally:
        for machine in machines:
            machine.cancel()
            with suppress(asyncio.CancelledError):
                await machine


async def answered_in_line(parley: Rig, model: Scripted) -> None:
    conversation = await parley.conversation(model=model.handle)
    sent = await asyncio.gather(*(parley.say(conversation.id, f"message {number}") for number in range(MANY)))
    ended = [await parley.ended(one.run) for one in sent]
    assert {(run.status, run.attempt) for run in ended} == {(RunStatus.COMPLETED, 1)}
    await checked(parley, conversation.id)
    in_line = [one.messages[0].text for one in sorted(sent, key=lambda one: one.run.created_sequence)]
    assert [told(request) for request in model.requests] == [
        [words for earlier in in_line[:number] for words in (earlier, "Done.")] + [in_line[number]] for number in range(MANY)
    ]


def told(request: ModelRequest) -> list[str]:
    return [words(turn) for turn in request.history]


def words(turn: Turn) -> str:
    match turn:
        case UserTurn(content=(TextPart(text),)) | AssistantTurn(text):
            return text
        case other:
            raise AssertionError(other)
