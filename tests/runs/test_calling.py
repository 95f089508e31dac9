"""A model that has no time is asked again, visibly, until something of an answer has been shown."""

import asyncio

import pytest

from db.engine import Database
from llm.backoff import RetryLimits
from llm.endpoints import CompatibleServer
from llm.model import Failed, TextStarted
from llm.registry import ModelRegistry
from tests.provider import Answer, Provider
from tests.rig import Rig, rig
from tests.runs.logs import checked, steps, until
from tests.runs.scripted import USAGE, Cue, Models, Scripted, call, finished, reasoning, text
from vocabulary.events import MessageCompleted, Payload
from vocabulary.messages import EventBody, Message, MessageType
from vocabulary.runs import RunError, RunErrorType, RunStatus, StopReason, Usage

REFUSED = Usage(requests=1, estimated=True)


def _busy(kind: RunErrorType = RunErrorType.LLM_RATE_LIMIT, *, transient: bool = True, retry_after_s: float | None = None) -> Failed:
    return Failed(RunError(kind, "Not now."), REFUSED, transient, retry_after_s)


def _told(history: list[Message]) -> list[EventBody]:
    return [message.body for message in history if isinstance(message.body, EventBody)]


async def test_a_call_that_was_put_off_is_told_and_then_answered(database: Database) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    model = Scripted([_busy()], [_busy(RunErrorType.LLM_OVERLOADED, retry_after_s=7)], [*text("Here."), *finished()])
    async with rig(database, models=Models(model), pause=pause) as parley:
        conversation = await parley.conversation(model="test/scripted")
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert (run.status, run.usage) == (RunStatus.COMPLETED, USAGE + Usage(requests=2))
        assert model.requests[0] == model.requests[1] == model.requests[2]
        assert 0.5 <= pauses[0] <= 1
        assert pauses[1] == 7
        await checked(parley, conversation.id)
        *_, first, second, said = await parley.history(conversation.id)
        [step] = await steps(parley, run.id)
        assert {(message.type, message.step_id, message.in_context) for message in (first, second)} == {(MessageType.EVENT, step.id, False)}
        assert [body.event_type for body in _told([first, second])] == ["model_retry"] * 2
        assert [body.data for body in _told([first, second])] == [
            {"attempt": 1, "reason": "LLM_RATE_LIMIT", "message": "Not now.", "delaySeconds": round(pauses[0], 3)},
            {"attempt": 2, "reason": "LLM_OVERLOADED", "message": "Not now.", "delaySeconds": 7},
        ]
        assert (said.text, step.usage) == ("Here.", run.usage)
        await parley.ended((await parley.say(conversation.id, "And now?")).run)
        assert len(model.requests[3].history) == 3  # nothing of it is shown to the model


async def test_who_never_has_time_is_given_up_with_the_last_reason(database: Database) -> None:
    model = Scripted(*[[_busy()] for _ in range(3)])
    async with rig(database, models=Models(model), retries=RetryLimits(retries=2)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert run.error == RunError(RunErrorType.LLM_RATE_LIMIT, "Not now.")
        assert (run.status, run.usage) == (RunStatus.FAILED, Usage(requests=3, estimated=True))
        assert len(_told(await parley.history(conversation.id))) == 2
        [step] = await steps(parley, run.id)
        assert (step.usage, step.stop_reason, step.completed_at) == (run.usage, StopReason.LLM_ERROR, None)


@pytest.mark.parametrize(
    "shown",
    [text("Half", " of")[:-1], text("Whole."), [TextStarted(0)], reasoning("Hm."), call("clock", "{")[:-1]],
    ids=["half a text", "a text", "an empty text", "reasoning", "half a call"],
)
async def test_once_something_was_shown_there_is_no_other_try(database: Database, shown: list[Cue]) -> None:
    model = Scripted([*shown, _busy()])
    async with rig(database, models=Models(model)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert (run.status, len(model.requests)) == (RunStatus.FAILED, 1)
        assert _told(await parley.history(conversation.id)) == []
        await checked(parley, conversation.id)


async def test_each_step_has_its_own_tries(database: Database) -> None:
    model = Scripted([_busy()], [*call("nothing", "{}"), *finished()], [_busy()], [*text("Done."), *finished()])
    async with rig(database, models=Models(model), retries=RetryLimits(retries=1)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        run = await parley.ended((await parley.say(conversation.id, "Hi")).run)
        assert (run.status, run.usage) == (RunStatus.COMPLETED, USAGE + USAGE + Usage(requests=2))
        assert [step.usage.requests for step in await steps(parley, run.id)] == [2, 2]
        await checked(parley, conversation.id)


def _put_off(payload: Payload | None) -> bool:
    return isinstance(payload, MessageCompleted) and payload.message.type is MessageType.EVENT


async def test_a_run_that_waits_for_its_next_try_is_seen_and_can_be_stopped_at_once(database: Database) -> None:
    stopped = asyncio.Event()

    async def pause(_: float) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    model = Scripted([_busy()])
    async with rig(database, models=Models(model), pause=pause) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, _put_off)
    assert stopped.is_set()
    assert len(model.requests) == 1


# ---- against a real HTTP server


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Answer(status=429, headers={"retry-after": "3"}), "LLM_RATE_LIMIT"),
        (Answer(status=503), "LLM_OVERLOADED"),
        (Answer(status=529), "LLM_OVERLOADED"),
        (Answer(text="Half", cut_after=0), "LLM_ERROR"),
        (Answer(text="Half", cut_after=0, politely=True), "LLM_EMPTY_RESPONSE"),
        (Answer(text="Half", cut_after=1), "LLM_ERROR"),
    ],
    ids=["429", "503", "529", "cut", "cut politely", "cut after the role"],
)
async def test_what_may_pass_is_tried_again_once_for_each_time_it_is_said(
    database: Database, provider: Provider, refusal: Answer, reason: str
) -> None:
    registry = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})
    async with rig(database, models=registry) as parley:
        provider.script(refusal, refusal)
        run, history = await _answered(parley)
        assert (run, len(provider.requests)) == (RunStatus.COMPLETED, 3)
        assert [body.data["reason"] for body in _told(history)] == [reason] * 2
        assert all(body.data["delaySeconds"] >= (3 if "retry-after" in refusal.headers else 0.5) for body in _told(history))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 500])
async def test_what_does_not_pass_is_said_at_once(database: Database, provider: Provider, status: int) -> None:
    registry = ModelRegistry(servers={"local": CompatibleServer(base_url=provider.base_url)})
    async with rig(database, models=registry) as parley:
        provider.script(Answer(status=status))
        run, history = await _answered(parley)
        assert (run, len(provider.requests), _told(history)) == (RunStatus.FAILED, 1, [])


async def _answered(parley: Rig) -> tuple[RunStatus, list[Message]]:
    conversation = await parley.conversation(model="local/m")
    run = await parley.ended((await parley.say(conversation.id, "Hi")).run, seconds=60)
    await checked(parley, conversation.id)
    return run.status, await parley.history(conversation.id)
