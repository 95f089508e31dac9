"""Random walks through the state machine, crashes and cancels included, on both dispatchers: after each step everything holds.

Each step of a walk first goes where something is under way, so that what is rare happens often, and then does something there. A client
is told of all of it: what its log folds to is what the rows say. Whatever is left behind, every run comes to its end, the next request
to the model is one that every provider takes, and no tool was run twice for one call.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from db import messages
from llm.model import ModelRequest, UserTurn
from runs.commands.approvals import Approve, Decision, Deny, PendingApproval, Result
from runs.commands.cancel import Cancelled, NoActiveRuns, cancel_conversation, cancel_run
from runs.commands.compact import CompactRequest, NothingToCompact, compact
from runs.commands.deletion import delete_conversation
from runs.commands.fork import NewFork, fork_conversation
from runs.commands.respond import Answer, NoPendingToolCalls, Respond, Responded, ToolCallMismatch, expire, respond
from runs.commands.send import ConversationBusy, Sent
from runs.prompt import turns
from tests.puppet import HANDLE, NUMBERED, Talk
from tests.rig import TENANT, Rig
from tests.runs.consistency import UNFINISHED, Shown, consistent, rows_fit, shown
from tests.runs.logs import calls_are_answered, checked
from tests.runs.stage import Stage, owner_of, staged
from tests.runs.witness import Held, Witness, agrees
from vocabulary.compaction import CompactionOverrides
from vocabulary.conversations import Conversation
from vocabulary.events import Item
from vocabulary.messages import TextPart, ToolCall, ToolCallState, ToolReturnBody, ToolSource
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import BusyPolicy, CancelOutcome, ClientTool, RunKind, RunStatus

STEPS = 10
EXAMPLES = 20
MOST_IN_LINE = 4
CAMERA = ClientTool(name="camera", description="Takes a picture.", parameters=NUMBERED)
REFUSALS = (PendingApproval, ConversationBusy, NoActiveRuns, NoPendingToolCalls, ToolCallMismatch)


class Scene(Enum):
    """Where something is under way."""

    WHATEVER = auto()
    SILENT = auto()  # the model was asked
    RETRIED = auto()  # it was asked again
    SPEAKING = auto()  # in the middle of a word
    CALLING = auto()  # some of its answer is finished, a call is half said
    WORKING = auto()  # two tools
    HALF_DONE = auto()  # one of two tools has returned
    ASKING = auto()  # calls wait, others have returned
    APPROVED = auto()  # a run goes on with what was approved
    COMPACTING = auto()


class GoesOn(Enum):
    SAYS = auto()
    REASONS = auto()
    CALLS = auto()
    ENDS = auto()
    FAILS = auto()
    IS_REFUSED = auto()  # and asked again


class End(Enum):
    """What becomes of the conversation when the walk is over."""

    ANSWERED = auto()
    CANCELLED = auto()
    DELETED = auto()


async def next_request(parley: Rig, conversation_id: str) -> ModelRequest:
    conversation = await parley.read(conversation_id)
    async with parley.database.read() as connection:
        context = await messages.context(connection, conversation)
    said = [message for message in context if message.in_tail]
    return ModelRequest(system="Be brief.", history=[*turns(said), UserTurn((TextPart("And now?"),))])


scenes = st.sampled_from(Scene)
scenes_of_work = st.sampled_from([*Scene, Scene.SPEAKING, Scene.CALLING, Scene.CALLING, Scene.WORKING, Scene.HALF_DONE, Scene.APPROVED])
scenes_to_stop = st.sampled_from([*Scene, Scene.ASKING, Scene.ASKING, Scene.ASKING, Scene.CALLING, Scene.APPROVED])
scenes_to_die = st.sampled_from([*Scene, Scene.SILENT, Scene.SPEAKING, Scene.CALLING, Scene.ASKING, Scene.ASKING])
some_tools = st.lists(st.sampled_from(["blow", "blow", "work", "camera", "nobody"]), min_size=1, max_size=3)
seldom = st.sampled_from([False, False, True])
several_booleans = st.lists(st.sampled_from([True, True, False]), min_size=3, max_size=3)


class Machine(RuleBasedStateMachine):
    """`line`: the live runs in the order in which they must run, the active one first."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.parley, self.puppet = self.stage.parley, self.stage.puppet
        self.holds = False
        self.forks: list[str] = []
        self.unheard: set[int] = set()

    @initialize(end=st.sampled_from([End.ANSWERED, End.ANSWERED, End.CANCELLED, End.DELETED]))
    def a_conversation(self, end: End) -> None:
        made = self.stage.wait(self.parley.conversation(model=HANDLE, tools=["work", "blow"]))
        self.id, self.end = made.id, end
        self.first_request, self.first_use = len(self.puppet.requests), len(self.puppet.used)
        self.witness: Witness = self.stage.wait(self._witness(made))
        self._look()

    def teardown(self) -> None:
        try:
            if self.holds:
                self._come_to_the_end()
            else:  # it has failed already
                self.stage.wait(self._cancel_what_is_left())
        finally:
            self.stage.wait(self.witness.leave())

    # ---- what clients do. What cannot be done just now is left out: what is drawn must not depend on who won a race.

    @rule(scene=scenes, crowd=st.booleans(), rejected=st.booleans())
    def send(self, scene: Scene, *, crowd: bool, rejected: bool) -> None:
        self._go_to(scene, crowd=crowd)
        if self.seen.waiting:
            self._say(BusyPolicy.REJECT if rejected else BusyPolicy.ENQUEUE, refused=PendingApproval)
        elif rejected and self.line:
            self._say(BusyPolicy.REJECT, refused=ConversationBusy)
        elif len(self.line) < MOST_IN_LINE:
            self._say(BusyPolicy.ENQUEUE)

    @rule(scene=scenes_to_stop, crowd=st.booleans())
    def interrupt(self, scene: Scene, *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        if len(self.line) < MOST_IN_LINE:
            self._say(BusyPolicy.INTERRUPT)

    @rule(crowd=st.booleans(), in_time=st.booleans(), approvals=several_booleans)
    def respond(self, approvals: list[bool], *, in_time: bool, crowd: bool) -> None:
        self._go_to(Scene.ASKING, crowd=crowd)
        if in_time:
            self._answer(approvals)
        else:
            self._let_expire()

    @rule(scene=scenes, crowd=st.booleans(), place=st.sampled_from([0, 0, 1, 2, -1]))
    def cancel_a_run(self, scene: Scene, place: int, *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        ended = [run.id for run in self.seen.runs if run.ended]
        ids = [*ended[-1:]] if place < 0 else self.line[place : place + 1]
        for id_ in ids:
            left = [other for other in self.line if other != id_]
            is_over = id_ in ended and id_ != self.seen.asked_by
            waits = bool(self.seen.waiting) and id_ != self.seen.asked_by
            cancelled = self._do(cancel_run(self.parley.engine, TENANT, id_), line=left)
            assert cancelled.outcome is (CancelOutcome.ALREADY_ENDED if is_over else CancelOutcome.CANCELLED)
            assert bool(self.seen.waiting) is waits

    @rule(scene=scenes_to_stop, crowd=st.booleans())
    def cancel_the_conversation(self, scene: Scene, *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        live = self.line
        refused = None if live or self.seen.waiting else NoActiveRuns
        cancelled = self._do(self._cancel_all(), refused=refused, line=[])
        assert refused or [one.run.id for one in cancelled] == live
        assert not self.seen.waiting

    @rule(scene=scenes, crowd=st.booleans(), forks=st.booleans())
    def something_that_changes_nothing(self, scene: Scene, *, crowd: bool, forks: bool) -> None:
        self._go_to(scene, crowd=crowd)
        if forks:
            made = self._do(self._fork(), line=self.line)
            self.stage.wait(self._fork_holds(made.id))
            return
        other = (Answer(tool_call_id="toolcall-other", decision=Deny()),)
        refused = ToolCallMismatch if self.seen.waiting else NoPendingToolCalls
        self._do(respond(self.parley.engine, TENANT, Respond(conversation_id=self.id, answers=other)), refused=refused)
        if not self.seen.waiting:
            self._let_expire()

    # ---- what the model and the tools do

    @rule(scene=scenes, crowd=st.booleans(), goes_on=st.sampled_from(GoesOn), tools=some_tools)
    def model_or_tool_goes_on(self, scene: Scene, goes_on: GoesOn, tools: list[str], *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        if self.puppet.works:
            self._return(succeeds=goes_on is not GoesOn.FAILS)
            return
        match goes_on:
            case GoesOn.SAYS:
                self._tell(lambda talk: talk.says("so \N{WAVING HAND SIGN}"))
            case GoesOn.REASONS:
                self._tell(lambda talk: talk.says("Hm. ", reasoning=True))
            case GoesOn.CALLS:
                self._tell(lambda talk: self._call(talk, tools, ends=True))
            case GoesOn.ENDS:
                self._tell(lambda talk: talk.ends())
            case GoesOn.FAILS | GoesOn.IS_REFUSED:
                self._tell(lambda talk: talk.fails(transient=goes_on is GoesOn.IS_REFUSED))

    # ---- what befalls the worker

    @rule(scene=scenes_of_work, crowd=st.booleans())
    def worker_is_killed(self, scene: Scene, *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        attempts = self._attempts()
        self._do(self._replace_worker(self.stage.crew.crash), line=self.line)
        assert self._attempts() == [attempt + 1 for attempt in attempts]

    @rule(scene=scenes_of_work, crowd=st.booleans())
    def worker_leaves(self, scene: Scene, *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        attempts = self._attempts()
        self._do(self._replace_worker(self.stage.crew.stop), line=self.line)
        assert self._attempts() == attempts

    @rule(scene=scenes_to_die, crowd=st.booleans(), tools=some_tools, commits=st.sampled_from([0, 0, 1, 2, 3]), keeps=seldom)
    def worker_is_killed_at_a_commit(self, scene: Scene, tools: list[str], commits: int, *, keeps: bool, crowd: bool) -> None:
        """Of those that follow when the model, or a tool, is done, or a call is answered."""
        self._go_to(scene, crowd=crowd)
        before, answers = self.line, bool(self.seen.waiting)
        if self.line or answers:
            self._do(self._die(tools, commits=commits, keeps=keeps))
            assert self.line[answers:] in (before, before[1:])

    # ---- at the same time

    @rule(scene=scenes, crowd=st.booleans(), chosen=st.lists(st.integers(0, 7), min_size=2, max_size=3), approvals=several_booleans)
    def several_at_once(self, scene: Scene, chosen: list[int], approvals: list[bool], *, crowd: bool) -> None:
        self._go_to(scene, crowd=crowd)
        possible = [self._cancel_all, partial(self._send, BusyPolicy.INTERRUPT), partial(self._send, BusyPolicy.ENQUEUE), self._fork]
        possible += [self._end_talk] if self.puppet.talks else []
        possible += [self._end_work] if self.puppet.works else []
        possible += [partial(self._respond, approvals)] if self.seen.waiting else []
        to_cancel = [*self.line, *(run.id for run in self.seen.runs[-1:])]
        possible += [partial(cancel_run, self.parley.engine, TENANT, id_) for id_ in to_cancel[:1]]
        self._nobody_hears()
        self._do(self._together([possible[number % len(possible)]() for number in chosen]))

    async def _together(self, acts: list[Coroutine[Any, Any, Any]]) -> None:
        for outcome in await asyncio.gather(*acts, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, REFUSALS):
                raise outcome

    # ---- where it happens

    def _go_to(self, scene: Scene, *, crowd: bool) -> None:
        """`crowd`: with others in line."""
        match scene:
            case Scene.WHATEVER:
                return
            case Scene.COMPACTING:
                self._compact()
                self._gather(crowd=crowd)
                return
            case _:
                self._ask()
                self._gather(crowd=crowd)
        match scene:
            case Scene.RETRIED:
                self._tell(lambda talk: talk.fails(transient=True))
            case Scene.SPEAKING:
                self._tell(lambda talk: talk.says("Well, "))
            case Scene.CALLING:
                self._tell(lambda talk: self._call_half(talk))
            case Scene.WORKING | Scene.HALF_DONE:
                self._tell(lambda talk: self._call(talk, ["work", "work"], ends=True))
            case Scene.ASKING | Scene.APPROVED:
                self._tell(lambda talk: self._call(talk, ["work", "blow", "camera", "blow"], ends=True))
            case _:
                return
        if scene in (Scene.HALF_DONE, Scene.ASKING, Scene.APPROVED):
            self._return(succeeds=True)
        if scene is Scene.APPROVED:
            self._answer([True])

    def _ask(self) -> None:
        """Until the model is asked and has not said anything."""
        while not (self.puppet.talks and self.puppet.talks[0].said == 0 and self._answers_somebody()):
            self._go_on()
            if not self.line and not self.seen.waiting:
                self._say(BusyPolicy.ENQUEUE)

    def _answers_somebody(self) -> bool:
        return self.seen.active is not None and self.seen.active.kind is RunKind.RESPONSE

    def _gather(self, *, crowd: bool) -> None:
        while crowd and 0 < len(self.line) < MOST_IN_LINE - 1:
            self._say(BusyPolicy.ENQUEUE)

    def _compact(self) -> None:
        """When there is enough to be compacted."""
        self._clear()
        own = ModelSettings(max_output_tokens=next(self.stage.numbers))
        asked = CompactRequest(conversation_id=self.id, settings=CompactionOverrides(model_settings=own))
        with suppress(NothingToCompact):
            self._do(compact(self.parley.engine, TENANT, asked))

    def _clear(self) -> None:
        """Until nothing is left to do."""
        while self.line or self.seen.waiting:
            self._go_on()

    def _go_on(self) -> None:
        """What comes next where nothing unusual happens; nothing where there is nothing to do."""
        if self.seen.waiting:
            self._answer([True])
        elif self.puppet.works:
            self._return(succeeds=True)
        else:
            self._tell(lambda talk: talk.ends())

    # ---- how it is done, and what holds

    @property
    def line(self) -> list[str]:
        in_line = sorted((run.status is RunStatus.QUEUED, run.created_sequence, run.id) for run in self.seen.runs if not run.ended)
        return [id_ for *_, id_ in in_line]

    def _do(self, act: Coroutine[Any, Any, Any], *, refused: type[Exception] | None = None, line: Sequence[str] | None = None) -> Any:
        """Waits until all is quiet again. What is refused changes nothing. `line`: as it must be then."""
        self.holds, before, outcome = False, self.seen, None
        if refused is None:
            outcome = self.stage.wait(act)
        else:
            with pytest.raises(refused):
                self.stage.wait(act)
        self._look()
        assert refused is None or self.seen == before
        assert refused is not None or line is None or self.line == line
        return outcome

    def _look(self) -> None:
        self.holds = False
        self.seen: Shown = self.stage.wait(self.stage.settled(self.witness))
        rows_fit(self.seen)
        agrees(self.witness.held, self.seen)
        self._all_is_paid_for()
        self._no_tool_is_run_behind_the_models_back()
        self.holds = True

    def _all_is_paid_for(self) -> None:
        """A run that goes on with what an earlier one has asked is known by the same number."""
        paid = Counter[int]()
        for run in self.seen.runs:
            paid[owner_of(run)] += run.usage.requests
        for owner in paid.keys() - self.unheard - {owner_of(run) for run in self.seen.runs if not run.ended}:
            assert paid[owner] >= self.puppet.heard_out[owner]

    def _no_tool_is_run_behind_the_models_back(self) -> None:
        assert len(set(self.puppet.used)) == len(self.puppet.used), "a tool was run twice for one call"
        bodies = [message.body for message in self.seen.messages]
        returns = [item for body in bodies if isinstance(body, ToolReturnBody) for item in body.tool_returns]
        denied = {item.tool_call_id for item in returns if item.output == "The tool was not run."}
        assert not any(call.arguments["n"] in self.puppet.used for call in self.seen.calls if call.id in denied)

    def _attempts(self) -> list[int]:
        return [] if self.seen.active is None else [self.seen.active.attempt]

    def _nobody_hears(self) -> None:
        """What the model says now may never arrive."""
        self.unheard |= {talk.owner for talk in self.puppet.talks}

    def _say(self, policy: BusyPolicy, *, refused: type[Exception] | None = None) -> None:
        line, active = self.line, self.seen.head.active_run_id
        sent = self._do(self._send(policy), refused=refused)
        if sent is not None and policy is BusyPolicy.INTERRUPT:
            assert self.line == [sent.run.id, *(id_ for id_ in line if id_ != active)]
        elif sent is not None:
            assert self.line == [*line, sent.run.id]

    def _answer(self, approvals: list[bool]) -> None:
        line = self.line
        responded = self._do(self._respond(approvals))
        assert self.line == [responded.run.id, *line]

    def _let_expire(self) -> None:
        waiting, line = [call.id for call in self.seen.waiting], self.line
        self._do(expire(self.parley.engine, self.id, before=self.parley.engine.clock() + timedelta(days=1)))
        assert self.line[bool(waiting) :] == line
        assert all(call.state is ToolCallState.DENIED for call in self.seen.calls if call.id in waiting)

    def _tell(self, what: Callable[[Talk], None]) -> None:
        """Whatever is said, its run goes on, or ends and leaves the next one to run."""

        async def tell() -> None:
            what(self.puppet.talks[0])

        if self.puppet.talks:
            before = self.line
            self._do(tell())
            assert self.line in (before, before[1:])

    def _return(self, *, succeeds: bool) -> None:
        before = self.line
        self._do(self._end_work(succeeds=succeeds))
        assert self.line in (before, before[1:])

    def _call(self, talk: Talk, tools: list[str], *, ends: bool) -> None:
        for tool in tools:
            talk.calls(tool, '{"n": ', f"{next(self.stage.numbers)}}}")
        if ends:
            talk.ends()

    def _call_half(self, talk: Talk) -> None:
        talk.says("Hm. ", reasoning=True)
        talk.says("I call.")
        talk.calls("work", '{"n": ')

    async def _witness(self, made: Conversation) -> Witness:
        return Witness(self.parley, made, self.puppet.bell)

    async def _send(self, policy: BusyPolicy) -> Sent:
        given = ModelSettings(max_output_tokens=next(self.stage.numbers))
        return await self.parley.say(self.id, "Go on.", when_busy=policy, override_model_settings=given, client_tools=(CAMERA,))

    async def _respond(self, approvals: list[bool]) -> Responded:
        given = zip(self.seen.waiting, cycle(approvals), strict=False)
        answers = tuple(Answer(tool_call_id=call.id, decision=decision(call, approved=approved)) for call, approved in given)
        return await respond(self.parley.engine, TENANT, Respond(conversation_id=self.id, answers=answers))

    async def _cancel_all(self) -> list[Cancelled]:
        return await cancel_conversation(self.parley.engine, TENANT, self.id)

    async def _end_talk(self) -> None:
        for talk in self.puppet.talks[:1]:
            if talk.waits:
                talk.ends()

    async def _end_work(self, *, succeeds: bool = True) -> None:
        for work in self.puppet.works[:1]:
            if not work.outcome.done():
                work.returns("Done.") if succeeds else work.fails()

    async def _replace_worker(self, by: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """What was begun and never stored is known to nobody."""
        await by()
        seen = await shown(self.parley, self.id, log=False)
        owners = {run.id: owner_of(run) for run in seen.runs}
        self.puppet.steps.update({owner: -self.puppet.steps[owner] for owner in set(owners.values())})
        self.puppet.steps.update(owners[step.run_id] for step in seen.steps)
        await self.stage.crew.begin()
        await self.witness.come_back()

    async def _die(self, tools: list[str], *, commits: int, keeps: bool) -> None:
        self._nobody_hears()
        self.stage.crew.database.revive(commits=commits, keeps_the_last=keeps)
        for talk in self.puppet.talks[:1]:
            self._call(talk, tools, ends=True)
        await self._end_work()
        if self.seen.waiting:
            await self._respond([True])
        ends = [asyncio.create_task(end) for end in (self.stage.crew.database.died.wait(), self.stage.settled(self.witness))]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        for outcome in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(outcome, AssertionError):
                raise outcome
        await self._replace_worker(self.stage.crew.crash)

    async def _fork(self) -> Conversation:
        return await fork_conversation(self.parley.engine, TENANT, NewFork(conversation_id=self.id))

    async def _fork_holds(self, fork_id: str) -> None:
        calls_are_answered(await self.parley.history(fork_id))
        self.forks = [fork_id]

    # ---- how it ends

    def _come_to_the_end(self) -> None:
        """Where everybody is answered every run ends."""
        match self.end:
            case End.ANSWERED:
                self._clear()
            case End.CANCELLED:
                self._do(self._cancel_what_is_left(), line=[])
            case End.DELETED:
                self.stage.wait(self._delete())
                return
        assert all(run.ended for run in self.seen.runs)
        self.stage.wait(self._leaves_something_sound())

    async def _cancel_what_is_left(self) -> None:
        with suppress(NoActiveRuns):
            await self._cancel_all()

    async def _delete(self) -> None:
        await delete_conversation(self.parley.engine, TENANT, self.id)
        held = self.witness.held
        await self.puppet.bell.until(lambda: self.witness.look().deleted and not self.puppet.talks and not self.puppet.works)
        assert not held.running
        assert not held.line
        assert not any(message.status in UNFINISHED for message in held.messages.values())

    def _what_was_begun_was_stored_before(self, seen: Shown) -> None:
        consistent(seen)
        begun = {call.arguments["n"] for call in seen.calls if ToolCallState.RUNNING in seen.moves_of_calls[call.id]}
        assert begun >= set(self.puppet.used[self.first_use :])

    async def _leaves_something_sound(self) -> None:
        """Also for who is told of all of it only now."""
        stored = await checked(self.parley, self.id)
        self._what_was_begun_was_stored_before(await shown(self.parley, self.id))
        told = Held(self.witness.held.conversation)
        for event in stored:
            told.take(Item(event.sequence, told.position, event.occurred_at, event.run_id, event.payload))
        agrees(told, self.seen)
        following = [await next_request(self.parley, id_) for id_ in [self.id, *self.forks]]
        for request in [*self.puppet.requests[self.first_request :][-1:], *following]:
            await self.stage.providers.take(request)


def decision(call: ToolCall, *, approved: bool) -> Decision:
    if not approved:
        return Deny("no")
    return Result("click") if call.source is ToolSource.CLIENT else Approve()


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
