"""A run from its send to its end: what the model is asked, what becomes of its answer, and that every run ends once."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
import structlog
from sqlalchemy import select

from db import messages, runs, tables
from db.engine import Database
from db.paging import Window
from db.tables import events
from llm.model import AssistantTurn, ModelRequest, SystemTurn, TextStarted, ToolCallTurn, ToolReturnTurn, Turn, UserTurn
from runs.commands.agents import NewAgent, NewBlock, create_agent
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.send import NewMessage, Send, send
from runs.tools.registry import Arguments, ServerTool, ToolContext
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import call_states, checked, only, statuses, steps
from tests.runs.scripted import USAGE, Cue, Models, Scripted, call, failed, finished, reasoning, text
from vocabulary.conversations import AgentTool, Conversation
from vocabulary.messages import InputRole, MessageStatus, MessageType, TextPart, ToolReturnBody, ToolReturnStatus
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunErrorType, RunStatus, StopReason, Usage

ECHO_PARAMETERS = {"type": "object", "properties": {"word": {"type": "string"}}}


def _echo(calls: list[Arguments]) -> ServerTool:
    async def run(arguments: Arguments, _context: ToolContext) -> str:
        calls.append(arguments)
        return f"echo {arguments['word']}"

    return ServerTool(name="echo", description="Says it again.", parameters=ECHO_PARAMETERS, run=run)


async def _answered(parley: Rig, conversation: Conversation, words: str = "Hi", **more: object) -> Run:
    return await parley.ended((await parley.say(conversation.id, words, **more)).run)


# ---- what the model is asked


async def test_the_model_is_given_the_compiled_system_prompt_and_the_agents_tools(database: Database) -> None:
    async with rig(database, models=Models(model := Scripted()), tools=[_echo([])]) as parley:
        new = NewAgent(
            name="tester",
            model="test/scripted",
            instructions="Be kind.",
            blocks=(NewBlock(label="human", value="Ada"),),
            tools=(AgentTool(name="echo"),),
        )
        agent = await create_agent(parley.engine, TENANT, new)
        conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))
        await _answered(parley, conversation)
        [asked] = model.requests
        assert asked.system == 'Be kind.\n\n<memory label="human">\nAda\n</memory>'
        assert asked.history == [UserTurn((TextPart("Hi"),))]
        assert [(tool.name, tool.description, tool.parameters) for tool in asked.tools] == [("echo", "Says it again.", ECHO_PARAMETERS)]


async def test_a_system_message_inside_the_talk_keeps_its_place(database: Database) -> None:
    async with rig(database, models=Models(model := Scripted())) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await _answered(parley, conversation)
        inputs = (
            NewMessage(role=InputRole.SYSTEM, content=(TextPart("In German."),)),
            NewMessage(role=InputRole.USER, content=(TextPart("Again"),)),
        )
        await parley.ended((await send(parley.engine, TENANT, Send(conversation_id=conversation.id, messages=inputs))).run)
        assert model.requests[1].system == "Be brief."
        assert model.requests[1].history == [
            UserTurn((TextPart("Hi"),)),
            AssistantTurn("Done."),
            SystemTurn("In German."),
            UserTurn((TextPart("Again"),)),
        ]


async def test_an_overridden_system_prompt_is_used_verbatim_and_once(database: Database) -> None:
    async with rig(database, models=Models(model := Scripted([*call("echo"), *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await _answered(parley, conversation, override_system="  Only this. <memory> ")
        await _answered(parley, conversation)
        await _answered(parley, conversation, override_system="")
        assert [asked.system for asked in model.requests] == ["  Only this. <memory> "] * 2 + ["Be brief.", ""]


@pytest.mark.parametrize(
    ("conversations", "requests", "used"),
    [
        (None, None, "test/agents"),
        ("test/conversations", None, "test/conversations"),
        ("test/conversations", "test/requests", "test/requests"),
    ],
)
async def test_the_requests_model_goes_before_the_conversations_and_that_before_the_agents(
    database: Database, conversations: str | None, requests: str | None, used: str
) -> None:
    models = [Scripted(handle=handle) for handle in ("test/agents", "test/conversations", "test/requests")]
    async with rig(database, models=Models(*models)) as parley:
        agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", model="test/agents"))
        conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, model=conversations))
        run = await _answered(parley, conversation, override_model=requests)
        following = await _answered(parley, conversation)
        assert (run.model, following.model) == (used, conversations or "test/agents")
        assert {step.model for step in await steps(parley, run.id)} == {used}
        assert sum(len(model.requests) for model in models if model.handle == used) >= 1


async def test_settings_of_the_request_lie_over_the_conversations_and_those_over_the_agents(database: Database) -> None:
    async with rig(database, models=Models(model := Scripted())) as parley:
        of_agent = ModelSettings(temperature=0.1, top_p=0.1, max_output_tokens=1)
        agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", model="test/scripted", model_settings=of_agent))
        new = NewConversation(agent_id=agent.id, model_settings=ModelSettings(temperature=0.2, top_p=0.2))
        conversation = await create_conversation(parley.engine, TENANT, new)
        await _answered(parley, conversation, override_model_settings=ModelSettings(temperature=0.0))
        await _answered(parley, conversation)
        assert [asked.settings for asked in model.requests] == [
            replace(of_agent, temperature=0.0, top_p=0.2),
            replace(of_agent, temperature=0.2, top_p=0.2),
        ]


async def test_what_waited_in_line_is_shown_what_was_said_before_it(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(model := Scripted([gate, *text("One."), *finished()], [*text("Two."), *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, words) for words in ("First", "Second", "Third")]
        gate.set()
        for one in sent:
            await parley.ended(one.run)
        assert [_said(asked) for asked in model.requests] == [
            ["First"],
            ["First", "One.", "Second"],
            ["First", "One.", "Second", "Two.", "Third"],
        ]


def _said(request: ModelRequest) -> list[str]:
    return [turn.text if isinstance(turn, AssistantTurn) else _words(turn) for turn in request.history]


def _words(turn: Turn) -> str:
    assert isinstance(turn, UserTurn)
    return "".join(part.text for part in turn.content if isinstance(part, TextPart))


# ---- what becomes of the answer


async def test_an_answer_is_completed_with_its_last_step(parley: Rig) -> None:
    conversation = await parley.conversation()
    run = await _answered(parley, conversation, "/think Hello there")
    assert (run.status, run.stop_reason, run.error, run.attempt) == (RunStatus.COMPLETED, StopReason.END_TURN, None, 1)
    history = await parley.history(conversation.id)
    assert [message.type for message in history] == [
        MessageType.SYSTEM, MessageType.USER, MessageType.REASONING, MessageType.ASSISTANT,
    ]  # fmt: skip
    assert all(message.status is MessageStatus.COMPLETED and message.in_context for message in history)
    assert history[-1].text == "You said: /think Hello there"
    [step] = await steps(parley, run.id)
    assert {message.step_id for message in history[2:]} == {step.id}
    assert run.usage == step.usage
    assert step.usage.requests == 1
    assert statuses(await checked(parley, conversation.id), run.id) == [
        RunStatus.QUEUED,
        RunStatus.RUNNING,
        RunStatus.RUNNING,
        RunStatus.COMPLETED,
    ]


@pytest.mark.parametrize("stop_reason", [StopReason.MAX_TOKENS, StopReason.CONTENT_FILTER])
async def test_why_the_model_stopped_is_why_the_run_stopped(database: Database, stop_reason: StopReason) -> None:
    async with rig(database, models=Models(Scripted([*text("Cut"), *finished(stop_reason)]))) as parley:
        run = await _answered(parley, await parley.conversation(model="test/scripted"))
        assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, stop_reason)


async def test_called_tools_are_run_in_order_and_their_returns_shown_to_the_model(database: Database) -> None:
    calls: list[Arguments] = []
    answer = [
        *reasoning("Hm."),
        *call("echo", '{"word": ', '"a"}', index=1),
        *call("nobody", "{}", index=2),
        *call("echo", "{}", index=3),
        *call("echo", '{"word": "b"}', index=4),
        *finished(),
    ]
    async with rig(database, models=Models(model := Scripted(answer)), tools=[_echo(calls)]) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["echo"])
        run = await _answered(parley, conversation)
        log = await checked(parley, conversation.id)
        assert calls == [{"word": "a"}, {}, {"word": "b"}]
        body = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
        assert isinstance(body, ToolReturnBody)
        assert [item.status is ToolReturnStatus.SUCCESS for item in body.tool_returns] == [True, False, False, True]
        # As they are now: each appeared and was complete; one was refused; those that were run, were running and ended.
        in_order = ["COMPLETED", "FAILED", "FAILED", "COMPLETED"]
        assert call_states(log) == [state for state in in_order for _ in range(2)] + ["FAILED"] + ["COMPLETED", "FAILED", "COMPLETED"] * 2
        called, returned = model.requests[1].history[-2:]
        assert isinstance(called, ToolCallTurn)
        assert isinstance(returned, ToolReturnTurn)
        assert (
            [item.call_id for item in called.calls] == [item.call_id for item in returned.returns] == [f"given-{n}" for n in (1, 2, 3, 4)]
        )
        assert [item.output for item in returned.returns][::3] == ["echo a", "echo b"]
        assert run.usage == USAGE + USAGE


async def test_steps_have_a_limit(database: Database) -> None:
    endless = [[*call("echo", '{"word": "a"}'), *finished()] for _ in range(9)]
    async with rig(database, models=Models(model := Scripted(*endless)), tools=[_echo([])]) as parley:
        conversation = await parley.conversation(model="test/scripted", tools=["echo"])
        run = await _answered(parley, conversation, max_steps=3)
        assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, StopReason.MAX_STEPS)
        assert len(model.requests) == 3
        await checked(parley, conversation.id)


async def test_a_conversation_that_stopped_at_its_limit_goes_on_with_the_next_send(database: Database) -> None:
    async with rig(database, models=Models(model := Scripted([*call("echo", "{}"), *finished()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await _answered(parley, conversation, max_steps=1)
        assert (await _answered(parley, conversation)).stop_reason is StopReason.END_TURN
        assert [type(turn) for turn in model.requests[1].history] == [UserTurn, ToolCallTurn, ToolReturnTurn, UserTurn]


# ---- every run ends once

ENDINGS: dict[str, tuple[Sequence[Cue], RunErrorType, StopReason]] = {
    "the model fails before a word": (failed(), RunErrorType.LLM_ERROR, StopReason.LLM_ERROR),
    "the model fails in the middle": ([*text("Half", " of")[:-1], *failed()], RunErrorType.LLM_ERROR, StopReason.LLM_ERROR),
    "the model fails in a call": ([*call("echo", "{")[:-1], *failed()], RunErrorType.LLM_ERROR, StopReason.LLM_ERROR),
    "an empty answer": (
        failed(RunErrorType.LLM_EMPTY_RESPONSE), RunErrorType.LLM_EMPTY_RESPONSE, StopReason.INVALID_LLM_RESPONSE,
    ),
    "a full window": (
        failed(RunErrorType.CONTEXT_WINDOW_OVERFLOW), RunErrorType.CONTEXT_WINDOW_OVERFLOW, StopReason.CONTEXT_WINDOW_OVERFLOW,
    ),
    "a bug raises at once": ([RuntimeError("bug")], RunErrorType.INTERNAL, StopReason.ERROR),
    "a bug raises in the middle": ([*text("Half", " of")[:-1], AssertionError("bug")], RunErrorType.INTERNAL, StopReason.ERROR),
    "a bug raises in a call": ([*call("echo", "{")[:-1], KeyError("bug")], RunErrorType.INTERNAL, StopReason.ERROR),
    "a bug raises after a call": ([*call("echo", "{}"), KeyError("bug")], RunErrorType.INTERNAL, StopReason.ERROR),
    "the stream just ends": (text("Half"), RunErrorType.INTERNAL, StopReason.ERROR),
    "a delta of no part": ([*text("Half"), *text("x", index=7)[1:]], RunErrorType.INTERNAL, StopReason.ERROR),
}  # fmt: skip


@pytest.mark.parametrize(("script", "error", "stop_reason"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_whatever_happens_a_run_ends_once_and_the_next_one_is_answered(
    database: Database, script: Sequence[Cue], error: RunErrorType, stop_reason: StopReason
) -> None:
    async with rig(database, models=Models(Scripted(script))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent, following = await parley.say(conversation.id, "Hi"), await parley.say(conversation.id, "And now?")
        run = await parley.ended(sent.run)
        assert run.error is not None
        assert (run.status, run.error.type, run.stop_reason) == (RunStatus.FAILED, error, stop_reason)
        assert (await parley.ended(following.run)).status is RunStatus.COMPLETED
        await checked(parley, conversation.id)
        assert (await _answered(parley, conversation)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("bug", [RuntimeError("bug"), None])
async def test_words_that_were_said_stay_whoever_failed(database: Database, bug: RuntimeError | None) -> None:
    script = [*text("Half", " of")[:-1], *([bug] if bug else failed())]
    async with rig(database, models=Models(Scripted(script))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await _answered(parley, conversation)
        cut = only(await parley.history(conversation.id), MessageType.ASSISTANT)
        assert (cut.text, cut.status, cut.in_context) == ("Half of", MessageStatus.INTERRUPTED, True)


async def test_what_was_cut_before_its_first_word_or_half_thought_or_half_called_is_left_out_of_the_context(database: Database) -> None:
    script = [*reasoning("Hm", ".")[:-1], TextStarted(1), *call("echo", "{", index=2)[:-1], *failed()]
    async with rig(database, models=Models(Scripted(script))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        await _answered(parley, conversation)
        await checked(parley, conversation.id)
        cut = (await parley.history(conversation.id))[2:5]
        assert [(message.type, message.status, message.in_context) for message in cut] == [
            (kind, MessageStatus.INTERRUPTED, False) for kind in (MessageType.REASONING, MessageType.ASSISTANT, MessageType.TOOL_CALL)
        ]


async def test_the_usage_of_a_call_that_failed_counts(database: Database) -> None:
    async with rig(database, models=Models(Scripted([*call("echo", "{}"), *finished()], failed()))) as parley:
        run = await _answered(parley, await parley.conversation(model="test/scripted"))
        assert run.usage == USAGE + USAGE == Usage(input_tokens=6, output_tokens=4, requests=2)


# ---- many at once


async def test_two_hundred_conversations_answer_at_once(database: Database) -> None:
    with structlog.testing.capture_logs() as complaints:
        async with rig(database) as parley:
            first = await parley.conversation()
            new = NewConversation(agent_id=first.agent_id)
            others = await asyncio.gather(*(create_conversation(parley.engine, TENANT, new) for _ in range(199)))
            talks = {conversation.id: f"Number {place}" for place, conversation in enumerate([first, *others])}
            sent = await asyncio.gather(*(parley.say(id_, words) for id_, words in talks.items()))
            await asyncio.gather(*(parley.reader.wait_for_end(one.run, seconds=50) for one in sent))
            ended, answers, numbers = await _everything(database, talks)
            assert [(run.status, run.attempt) for run in ended] == [(RunStatus.COMPLETED, 1)] * 200
            assert answers == {id_: f"You said: {words}" for id_, words in talks.items()}
            assert set(numbers) == set(talks)
            assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
    assert complaints == []


async def _everything(database: Database, talks: Collection[str]) -> tuple[list[Run], dict[str, str], dict[str, list[int]]]:
    """All runs, and by conversation its last message and the numbers of its events in the order they were stored."""
    numbers: dict[str, list[int]] = defaultdict(list)
    async with database.read() as connection:
        ended = await runs.by_ids(connection, TENANT, list((await connection.execute(select(tables.runs.c.id))).scalars()))
        last = await messages.pages(connection, talks, messages.Filter(), Window(size=1, forward=False))
        for id_, sequence in await connection.execute(
            select(events.c.conversation_id, events.c.sequence).order_by(events.c.occurred_at, events.c.sequence)
        ):
            numbers[id_].append(sequence)
    return ended, {id_: page.slices[0].item.text for id_, page in last.items()}, numbers
