"""Random walks through the state machine, crashes and cancels included, on both dispatchers: after each step everything holds.

Whatever is left behind, the next request to the model is one that every provider takes, and no tool was run twice for one call.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cluster.postgres import fresh_database
from db import messages
from db.migrate import upgrade
from llm.model import ModelRequest, UserTurn
from runs.commands.approvals import Approve, Decision, Deny, PendingApproval, Result
from runs.commands.cancel import NoActiveRuns, cancel_conversation, cancel_run
from runs.commands.fork import NewFork, fork_conversation
from runs.commands.respond import Answer, NoPendingToolCalls, Respond, ToolCallMismatch, respond
from runs.commands.send import ConversationBusy
from runs.engine import Engine
from runs.prompt import turns
from runs.workers.dispatch import LocalDispatcher
from runs.workers.jobs import JobDispatcher, Jobs
from runs.workers.worker import Worker, WorkerLimits
from tests.llm.listening import Providers, listening
from tests.rig import TENANT, Rig, rig
from tests.runs.consistency import Shown, consistent, shown
from tests.runs.doubt import Mortal
from tests.runs.logs import calls_are_answered, checked
from tests.runs.puppet import HANDLE, NUMBERED, Puppet, Talk
from tests.runs.scripted import Models
from vocabulary.conversations import Conversation
from vocabulary.messages import MessageType, TextPart, ToolCall, ToolCallBody, ToolCallState, ToolSource
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import BusyPolicy, CancelOutcome, ClientTool, Step

SETTLED_S = 20.0
STEPS = 12
EXAMPLES = 16
MOST_IN_LINE = 4
CAMERA = ClientTool(name="camera", description="Takes a picture.", parameters=NUMBERED)
REFUSALS = (PendingApproval, ConversationBusy, NoActiveRuns, NoPendingToolCalls, ToolCallMismatch)


Plan = tuple[list[str], list[bool]]
"""Tools to call, and what to say to each thing that asks."""


class Crew:
    """The workers of one engine, one at a time: the next one begins where the one before was stopped, or killed."""

    def __init__(self, engine: Engine, database: Mortal) -> None:
        self._engine = engine
        self._database = database
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """It finds what was left at its start, and nothing afterwards but what it is told of."""
        worker = Worker(self._engine, WorkerLimits(sole=True, reconcile_s=600))
        self._tasks = [asyncio.create_task(worker.run(), name="worker")]
        if isinstance(self._engine.dispatcher, LocalDispatcher):
            self._engine.dispatcher.serve(worker.advance_soon)
        else:
            jobs = Jobs(self._database, worker, concurrency=20)
            self._tasks.append(asyncio.create_task(jobs.run(), name="jobs"))
        await worker.ready.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def crash(self) -> None:
        self._database.kill()
        await self.stop()
        self._database.revive()
        await self.begin()

    async def drain(self) -> None:
        await self.stop()
        await self.begin()


class Stage:
    """One running engine for all examples, each in a conversation of its own."""

    def __init__(self, runner: asyncio.Runner, parley: Rig, puppet: Puppet, crew: Crew, providers: "Providers") -> None:
        self.runner, self.parley, self.puppet, self.crew, self.providers = runner, parley, puppet, crew, providers
        self.numbers = count(1)

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(SETTLED_S):
                return await coroutine

        return self.runner.run(bounded())

    async def settled(self, conversation_id: str) -> Shown:
        """Everybody waits for us: the model or a tool of the run that is active, or nobody."""
        while True:
            await asyncio.sleep(0.005)  # nobody tells
            seen = await shown(self.parley, conversation_id)
            if self._is_settled(seen):
                return seen

    def _is_settled(self, seen: Shown) -> bool:
        """Also that the log holds all that was done so far."""
        at_work = {one.owner for one in [*self.puppet.talks, *self.puppet.works]}
        if seen.active is None:
            return not at_work and not seen.may_go_on
        running = sum(call.state is ToolCallState.RUNNING for call in seen.calls)
        if at_work != {seen.active.request.settings.max_output_tokens} or running != len(self.puppet.works):
            return False
        return all(talk.waits and self._is_told(seen, talk) for talk in self.puppet.talks)

    def _is_told(self, seen: Shown, talk: Talk) -> bool:
        numbers = {run.id: run.request.settings.max_output_tokens for run in seen.runs}
        steps = [step for step in seen.steps if numbers[step.run_id] == talk.owner]
        if len(steps) != self.puppet.steps[talk.owner]:
            return False
        written = [message for message in seen.messages if message.step_id == talk_step(seen).id]
        calls = [call for message in written if isinstance(message.body, ToolCallBody) for call in message.body.tool_calls]
        said = sum(len(message.text) for message in written) + sum(len(call.arguments_text) for call in calls)
        return said == talk.said and talk.before == sum(message.type is MessageType.EVENT for message in written)


def talk_step(seen: Shown) -> Step:
    """Those before it are over, or were abandoned."""
    return [step for step in seen.steps if step.run_id == seen.head.active_run_id][-1]


async def next_request(parley: Rig, conversation_id: str) -> ModelRequest:
    conversation = await parley.read(conversation_id)
    async with parley.database.read() as connection:
        context = await messages.context(connection, conversation)
    said = [message for message in context if message.in_tail]
    return ModelRequest(system="Be brief.", history=[*turns(said), UserTurn((TextPart("And now?"),))])


some_tools = st.lists(st.sampled_from(["blow", "blow", "work", "camera", "nobody"]), min_size=1, max_size=3)
several_booleans = st.lists(st.sampled_from([True, True, False]), min_size=3, max_size=3)
walks = st.lists(st.tuples(some_tools, several_booleans), min_size=0, max_size=4)
"""What goes on as usual before something is done."""


class Machine(RuleBasedStateMachine):
    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.parley, self.puppet = self.stage.parley, self.stage.puppet
        self.holds = False
        self.forks: list[str] = []

    @initialize()
    def a_conversation(self) -> None:
        made = self.stage.wait(self.parley.conversation(model=HANDLE, tools=["work", "blow"]))
        self.id, self.first_request = made.id, len(self.puppet.requests)
        self._look()

    def teardown(self) -> None:
        if self.holds:  # else it has failed already
            self.stage.wait(self._end())
        else:
            self.stage.wait(self._cancel())

    # ---- what clients do. What cannot be done just now is left out: what is drawn must not depend on who won a race.

    @rule(first=walks, policy=st.sampled_from(BusyPolicy))
    def send(self, first: list[Plan], policy: BusyPolicy) -> None:
        self._go_on(first)
        refused: type[Exception] | None = None
        if policy is not BusyPolicy.INTERRUPT and self.seen.waiting:
            refused = PendingApproval
        elif policy is BusyPolicy.REJECT and self.seen.may_go_on:
            refused = ConversationBusy
        if refused or len(self.seen.may_go_on) < MOST_IN_LINE:
            self._do(self._send(policy), refused=refused)

    @rule(first=walks, approvals=several_booleans, to_what_waits=st.sampled_from([True, True, False]))
    def respond(self, first: list[Plan], approvals: list[bool], *, to_what_waits: bool) -> None:
        self._go_on(first)
        if not to_what_waits:
            other = (Answer(tool_call_id="toolcall-other", decision=Deny()),)
            refused = ToolCallMismatch if self.seen.waiting else NoPendingToolCalls
            self._do(respond(self.parley.engine, TENANT, Respond(conversation_id=self.id, answers=other)), refused=refused)
        elif self.seen.waiting:
            self._do(self._respond(approvals))

    @rule(first=walks, place=st.integers(1, 4))
    def cancel_a_run(self, first: list[Plan], place: int) -> None:
        self._go_on(first)
        for run in self.seen.runs[-place:][:1]:
            is_over = run.ended and run.id != self.seen.asked_by
            cancelled = self._do(cancel_run(self.parley.engine, TENANT, run.id))
            assert cancelled.outcome is (CancelOutcome.ALREADY_ENDED if is_over else CancelOutcome.CANCELLED)

    @rule(first=walks)
    def cancel_the_conversation(self, first: list[Plan]) -> None:
        self._go_on(first)
        live = [run.id for run in self.seen.runs if not run.ended]
        refused = None if live or self.seen.waiting else NoActiveRuns
        cancelled = self._do(self._cancel_all(), refused=refused)
        assert refused or sorted(one.run.id for one in cancelled) == sorted(live)

    @rule(first=walks)
    def fork(self, first: list[Plan]) -> None:
        self._go_on(first)
        made = self._do(self._fork())
        self.stage.wait(self._fork_holds(made.id))

    # ---- what the model and the tools do

    @rule(first=walks, text=st.sampled_from(["Well, ", "so \N{WAVING HAND SIGN}"]), reasoning=st.booleans())
    def model_says(self, first: list[Plan], text: str, *, reasoning: bool) -> None:
        self._go_on(first)
        self._tell(lambda talk: talk.says(text, reasoning=reasoning))

    @rule(first=walks, tools=some_tools, ends=st.booleans())
    def model_calls(self, first: list[Plan], tools: list[str], *, ends: bool) -> None:
        self._go_on(first)
        self._tell(lambda talk: self._call(talk, tools, ends=ends))

    @rule(first=walks, fails=st.booleans(), transient=st.booleans())
    def model_ends(self, first: list[Plan], *, fails: bool, transient: bool) -> None:
        self._go_on(first)
        self._tell(lambda talk: talk.fails(transient=transient) if fails else talk.ends())

    @rule(first=walks, succeeds=st.booleans())
    def tool_returns(self, first: list[Plan], *, succeeds: bool) -> None:
        self._go_on(first)
        if self.puppet.works:
            self._do(self._return(succeeds=succeeds))

    # ---- what befalls the worker

    @rule(first=walks, crashes=st.booleans())
    def worker_leaves(self, first: list[Plan], *, crashes: bool) -> None:
        self._go_on(first)
        self._do(self.stage.crew.crash() if crashes else self.stage.crew.drain())

    # ---- at the same time

    @rule(first=walks, chosen=st.lists(st.integers(0, 7), min_size=2, max_size=3), approvals=several_booleans)
    def several_at_once(self, first: list[Plan], chosen: list[int], approvals: list[bool]) -> None:
        self._go_on(first)
        possible = [self._cancel_all, partial(self._send, BusyPolicy.INTERRUPT), partial(self._send, BusyPolicy.ENQUEUE), self._fork]
        possible += [self._end_talk] if self.puppet.talks else []
        possible += [partial(self._return, succeeds=True)] if self.puppet.works else []
        possible += [partial(self._respond, approvals)] if self.seen.waiting else []
        possible += [partial(cancel_run, self.parley.engine, TENANT, run.id) for run in [*self.seen.may_go_on, *self.seen.runs[-1:]][:1]]
        self._do(self._together([possible[number % len(possible)]() for number in chosen]))

    async def _together(self, acts: list[Coroutine[Any, Any, Any]]) -> None:
        for outcome in await asyncio.gather(*acts, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, REFUSALS):
                raise outcome

    # ---- how it is done, and what holds

    def _go_on(self, first: list[Plan]) -> None:
        """What comes next where nothing unusual happens."""
        for tools, approvals in first:
            if self.seen.waiting:
                self._do(self._respond(approvals))
            elif self.puppet.works:
                self._do(self._return(succeeds=approvals[0]))
            elif self.puppet.talks:
                self._tell(lambda talk, tools=tools, calls=approvals[0]: self._call(talk, tools, ends=True) if calls else talk.ends())
            else:
                self._do(self._send(BusyPolicy.ENQUEUE))

    def _do(self, act: Coroutine[Any, Any, Any], *, refused: type[Exception] | None = None) -> Any:
        """Waits until all is quiet again. What is refused changes nothing."""
        self.holds, before, outcome = False, self.seen, None
        if refused is None:
            outcome = self.stage.wait(act)
        else:
            with pytest.raises(refused):
                self.stage.wait(act)
        self._look()
        assert refused is None or self.seen == before
        return outcome

    def _look(self) -> None:
        self.holds = False
        self.seen: Shown = self.stage.wait(self.stage.settled(self.id))
        consistent(self.seen)
        assert len(set(self.puppet.used)) == len(self.puppet.used), "a tool was run twice for one call"
        self.holds = True

    async def _send(self, policy: BusyPolicy) -> None:
        given = ModelSettings(max_output_tokens=next(self.stage.numbers))
        await self.parley.say(self.id, "Go on.", when_busy=policy, override_model_settings=given, client_tools=(CAMERA,))

    async def _respond(self, approvals: list[bool]) -> None:
        given = zip(self.seen.waiting, cycle(approvals), strict=False)
        answers = tuple(Answer(tool_call_id=call.id, decision=decision(call, approved=approved)) for call, approved in given)
        await respond(self.parley.engine, TENANT, Respond(conversation_id=self.id, answers=answers))

    async def _cancel_all(self) -> Any:
        return await cancel_conversation(self.parley.engine, TENANT, self.id)

    def _call(self, talk: Talk, tools: list[str], *, ends: bool) -> None:
        for tool in tools:
            talk.calls(tool, '{"n": ', f"{next(self.stage.numbers)}}}")
        if ends:
            talk.ends()

    def _tell(self, what: Callable[[Talk], None]) -> None:
        async def tell() -> None:
            what(self.puppet.talks[0])

        if self.puppet.talks:
            self._do(tell())

    async def _end_talk(self) -> None:
        for talk in self.puppet.talks[:1]:
            if talk.waits:
                talk.ends()

    async def _return(self, *, succeeds: bool) -> None:
        for work in self.puppet.works[:1]:
            if not work.outcome.done():
                work.returns("Done.") if succeeds else work.fails()

    async def _fork(self) -> Conversation:
        return await fork_conversation(self.parley.engine, TENANT, NewFork(conversation_id=self.id))

    async def _fork_holds(self, fork_id: str) -> None:
        calls_are_answered(await self.parley.history(fork_id))
        self.forks = [*self.forks, fork_id][-2:]

    async def _cancel(self) -> None:
        with suppress(NoActiveRuns):
            await self._cancel_all()
        await self.stage.settled(self.id)

    async def _end(self) -> None:
        await self._cancel()
        consistent(await shown(self.parley, self.id))
        await checked(self.parley, self.id)
        following = [await next_request(self.parley, id_) for id_ in [self.id, *self.forks]]
        for request in [*self.puppet.requests[self.first_request :][-1:], *following]:
            await self.stage.providers.take(request)


def decision(call: ToolCall, *, approved: bool) -> Decision:
    if not approved:
        return Deny("no")
    return Result("click") if call.source is ToolSource.CLIENT else Approve()


@asynccontextmanager
async def staged(runner: asyncio.Runner, to_copy: tuple[str, str] | None, folder: Path) -> AsyncGenerator[Stage]:
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{folder}/parley.db"
        if to_copy is not None:
            url = await stack.enter_async_context(fresh_database(to_copy[0], template=to_copy[1]))
        database = Mortal.open(url)
        assert isinstance(database, Mortal)
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
        yield Stage(runner, parley, puppet, crew, await stack.enter_async_context(listening()))


@pytest.mark.timeout(300)
def test_wherever_a_walk_leads_everything_holds(postgres_to_copy: tuple[str, str] | None, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        engine = staged(runner, postgres_to_copy, tmp_path)
        stage = runner.run(engine.__aenter__())
        try:
            run_state_machine_as_test(
                type("Walk", (Machine,), {"stage": stage}),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    phases=(Phase.explicit, Phase.reuse, Phase.generate),
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(engine.__aexit__(None, None, None))
