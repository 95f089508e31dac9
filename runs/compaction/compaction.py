"""Compacting, on the worker's side: a summary is written, and the context becomes system message, summary and tail, in one fenced batch.

A run of kind COMPACTION does nothing else; a RESPONSE does it on its way, when its context has grown too large. Until that batch is
committed nothing has changed, whatever happens, so whoever takes such a run over begins anew, and whoever cancels it undoes nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from db import agents, conversations, messages, runs
from llm import tokens
from llm.model import Model, ToolDefinition
from llm.registry import ModelNotFound
from runs import state
from runs.calling import ask
from runs.close import Ending
from runs.compaction.cuts import SLIDING, Cut, Room, choose
from runs.compaction.summariser import SELF, Assignment, requests
from runs.compaction.summary import Summary
from runs.engine import Engine
from runs.sizes import Sizes, measured, size
from runs.tools.toolbox import toolbox
from runs.writing.compiled import prompts
from runs.writing.pen import Pen
from runs.writing.writes import Compact, EndStep, Recompile, StartStep, Summarise, Write
from vocabulary.compaction import CompactionSettings, CompactionStats, CompactionTrigger
from vocabulary.conversations import Agent, Conversation
from vocabulary.ids import Noun, new_id
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunError, RunErrorType, RunKind, RunStatus, Step, StopReason, Usage

log = structlog.get_logger()

MAX_OVERFLOWS = 3
"""How often one step is tried again with a smaller context before its run fails."""

_LONGEST_SUMMARY = 1_000  # tokens that are kept free for it; a small window gives a tenth of itself
_RELIEF = 0.25  # of the context, more after each overflow

_NOTHING = RunError(RunErrorType.COMPACTION_INEFFECTIVE, "The context holds too little to be compacted.")
_INEFFECTIVE = RunError(RunErrorType.COMPACTION_INEFFECTIVE, "The summary would not have been shorter than what it was to replace.")
_TOO_LONG = RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, "Not even a shortened transcript fits into the summariser's window.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Nothing has changed. `step`: the one that was begun for it and is still open; None: none was."""

    error: RunError
    step: Step | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """The context as it is. `system`: as it would be compiled now."""

    conversation: Conversation
    agent: Agent
    context: Sequence[Message]
    sizes: Sizes
    system: str

    @property
    def compiled(self) -> Message | None:
        return next((message for message in self.context if message.id == self.conversation.system_message_id), None)

    @property
    def summary(self) -> Message | None:
        return next((message for message in self.context if message.id == self.conversation.summary_message_id), None)

    @property
    def tail(self) -> Sequence[Message]:
        return self.context[(self.compiled is not None) + (self.summary is not None) :]


def unchanged(run: Run) -> Run:
    return run


def completed(run: Run, engine: Engine, stop_reason: StopReason) -> Run:
    ended = state.moved(state.RUN, run.status, RunStatus.COMPLETED)
    return replace(run, status=ended, stop_reason=stop_reason, completed_at=engine.clock())


@dataclass(slots=True, kw_only=True)
class Compaction:
    """One compaction inside a run. `run`: as it was last written. `overflows`: how often the provider has refused the step that waits.

    `context`: what the model is shown from now on, once `perform` has succeeded.
    """

    engine: Engine
    pen: Pen
    run: Run
    settings: CompactionSettings
    trigger: CompactionTrigger
    steps_begun: int
    tools: Sequence[ToolDefinition] = ()
    overflows: int = 0
    context: list[Message] = field(default_factory=list[Message])

    async def prompt(self) -> tuple[str, int]:
        """The system prompt that the model would be given after a compaction, and the window that it must fit into."""
        before = await self._before()
        said = self.run.request.override_system
        return before.system if said is None else said, self._window(before)

    async def recompile(self) -> bool:
        """The least that can help: the system message as it would be compiled now. Whether that is shorter."""
        before = await self._before()
        if self.run.request.override_system is not None or before.compiled is None or len(before.system) >= len(before.compiled.text):
            return False
        self.pen.write(*_recompiled(before))
        await self.pen.flush()
        self.context = list((await self._before()).context)
        return True

    async def perform(self, ending: Callable[[Run], Run] = unchanged) -> Failure | None:
        """`ending`: what becomes of the run with it. Raises LeaseLost, WriteRefused."""
        await self.pen.flush()
        before = await self._before()
        cut = await asyncio.to_thread(self._cut, before)
        if cut is None:
            return Failure(error=_NOTHING)
        try:
            model = self.engine.models.resolve(self._summariser(before, cut))
        except ModelNotFound as error:
            return Failure(error=RunError(RunErrorType.LLM_BAD_REQUEST, f"The summary cannot be written: there is {error}."))
        step = self._start(model)
        said = await self._summarised(model, before, cut, step)
        if said.error is not None:
            return Failure(error=said.error, step=step, usage=said.usage)
        before = await self._before()  # memory may have changed, and calls that waited been decided, meanwhile; the cut has not
        stats = await asyncio.to_thread(self._stats, before, cut, said.text)
        if stats is None:
            return Failure(error=_INEFFECTIVE, step=step, usage=said.usage)
        await self._write(before, cut, said, stats, step, ending)
        return None

    # ---- deciding

    async def _before(self) -> _Before:
        async with self.engine.database.read() as connection:
            conversation = (await conversations.read(connection, [self.run.conversation_id]))[self.run.conversation_id]
            agent = await agents.get(connection, conversation.agent_id)
            context = await messages.context(connection, conversation)
            counted = (await runs.last_counted(connection, [conversation.id])).get(conversation.id)
            system = (await prompts(connection, [conversation.id]))[conversation.id]
        assert agent is not None, "agents are never removed while they have conversations"
        return _Before(
            conversation=conversation,
            agent=agent,
            context=context,
            sizes=await asyncio.to_thread(measured, context, counted),
            system=system,
        )

    def _cut(self, before: _Before) -> Cut | None:
        estimates = before.sizes.estimates
        fixed = len(before.context) - len(before.tail)
        mode = self.settings.mode
        is_last_resort = self.overflows >= MAX_OVERFLOWS
        return choose(
            before.tail,
            estimates[fixed:],
            mode=SLIDING.get(mode, mode) if is_last_resort else mode,
            fraction=self.settings.sliding_window_fraction,
            room=self._room(before, estimates),
            summarised=before.summary is not None,
            awaited=None if self.trigger is CompactionTrigger.MANUAL else self.run.id,
        )

    def _room(self, before: _Before, estimates: Sequence[int]) -> Room:
        """In our tokens. What overflowed although it should have fitted must shrink all the same: the window is smaller than we know."""
        window = self._window(before)
        budget = self.settings.trigger_fraction * window / before.sizes.scale
        if self.overflows:
            budget = min(budget, sum(estimates) * (1 - _RELIEF * self.overflows))
        system = 0 if before.compiled is None else estimates[0]
        return Room(fixed=system + min(_LONGEST_SUMMARY, window // 10), budget=budget)

    def _own_model(self, before: _Before) -> str:
        """Whose context it is."""
        return self.run.model if self.run.kind is RunKind.RESPONSE else before.conversation.model or before.agent.model

    def _window(self, before: _Before) -> int:
        return self.engine.models.window(self._own_model(before), self.run.request.settings)

    def _summariser(self, before: _Before, cut: Cut) -> str:
        return summariser(self.settings, self._own_model(before), own=cut.mode in SELF)

    # ---- the summary

    def _start(self, model: Model) -> Step:
        step = Step(
            id=new_id(Noun.STEP),
            run_id=self.run.id,
            conversation_id=self.run.conversation_id,
            index=self.steps_begun,
            model=model.handle,
            usage=Usage(),
            stop_reason=None,
            started_at=self.engine.clock(),
            completed_at=None,
            kind=RunKind.COMPACTION,
        )
        self.steps_begun += 1
        self.pen.write(StartStep(step, self.run))
        return step

    async def _summarised(self, model: Model, before: _Before, cut: Cut, step: Step) -> "_Said":
        is_own = model.handle == self._own_model(before)
        settings = (self.settings.model_settings or ModelSettings()).over(self.run.request.settings if is_own else ModelSettings())
        given = Assignment(
            shown=[*([] if before.summary is None else [before.summary]), *cut.evicted],
            mode=cut.mode,
            settings=self.settings,
            model_settings=settings,
            system="" if before.compiled is None else before.compiled.text,
            tools=self.tools,
        )
        ladder = requests(given, self.engine.models.window(model.handle, settings))
        usage = Usage()
        while (request := await asyncio.to_thread(next, ladder, None)) is not None:
            summary = Summary()
            usage += await ask(self.engine, self.pen, model, request, step=step, listener=summary)
            usage += summary.usage
            if summary.error is None or summary.error.type is not RunErrorType.CONTEXT_WINDOW_OVERFLOW:
                return _Said(text=summary.text[: self.settings.clip_chars].strip(), error=summary.error, usage=usage)
        return _Said(error=_TOO_LONG, usage=usage)

    def _stats(self, before: _Before, cut: Cut, text: str) -> CompactionStats | None:
        """None: it came to nothing."""
        estimates = before.sizes.estimates
        kept = estimates[len(before.context) - len(before.tail) + len(cut.evicted) :]
        system = () if before.compiled is None else (size(replace(before.compiled, text=before.system)),)
        summary = size(self._message(text, step_id=None))
        scale = before.sizes.scale
        tokens_before, tokens_after = (round(sum(part) * scale) for part in (estimates, (*system, summary, *kept)))
        messages_after = len(system) + 1 + len(kept)
        if messages_after >= len(before.context) or tokens_after >= tokens_before:
            return None
        return CompactionStats(
            trigger=self.trigger,
            mode=cut.mode,
            messages_before=len(before.context),
            messages_after=messages_after,
            tokens_before=tokens_before,
            tokens_after=tokens_after,
        )

    # ---- writing

    async def _write(
        self, before: _Before, cut: Cut, said: "_Said", stats: CompactionStats, step: Step, ending: Callable[[Run], Run]
    ) -> None:
        message = replace(self._message(said.text, step_id=step.id), body=SummaryBody(stats=stats))
        first_kept = cut.kept[0] if cut.kept else None
        done = replace(step, usage=said.usage, stop_reason=StopReason.END_TURN, completed_at=self.engine.clock())
        self.run = ending(replace(self.run, usage=self.run.usage + said.usage))
        await self.pen.flush()  # nothing waits now, so what follows goes into one batch
        self.pen.write(
            Summarise(message, first_kept),
            *_recompiled(before),
            Compact(message.id, first_kept, stats),
            EndStep(done, self.run),
        )
        await self.pen.flush()
        if not self.run.ended:
            self.context = list((await self._before()).context)

    def _message(self, text: str, *, step_id: str | None) -> Message:
        return Message(
            id=new_id(Noun.MESSAGE),
            conversation_id=self.run.conversation_id,
            type=MessageType.SUMMARY,
            status=MessageStatus.COMPLETED,
            ordinal=None,
            text=text,
            body=SummaryBody(),
            in_tail=False,
            in_context=True,
            group_id=self.run.group_id,
            run_id=self.run.id,
            step_id=step_id,
            sequence=0,
            created_at=self.engine.clock(),
        )


def summariser(settings: CompactionSettings, own_model: str, *, own: bool) -> str:
    """The handle of the model that writes the summary. `own`: in a mode in which the agent's own does."""
    return own_model if own else settings.model or own_model


def _recompiled(before: _Before) -> list[Write]:
    """The caches of the old prompt are cold now anyway."""
    if before.compiled is None or before.compiled.text == before.system:
        return []
    return [Recompile(before.compiled)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """By the summariser in all calls that it took."""

    text: str = ""
    error: RunError | None = None
    usage: Usage = field(default_factory=Usage)


# ---- on the way of a run


async def is_due(engine: Engine, run: Run, settings: CompactionSettings, usage: Usage, context: Sequence[Message]) -> bool:
    """After a step: whether what its call was shown has outgrown its share of the window. What the answer added counts with the next."""
    shown = usage.input_tokens
    if usage.estimated or not shown:
        shown = (await asyncio.to_thread(measured, context, None)).tokens
    return shown > settings.trigger_fraction * engine.models.window(run.model, run.request.settings)


async def compact_on_the_way(compaction: Compaction, last: Step, ending: Callable[[Run], Run] = unchanged) -> RunError | None:
    """As `perform`; what came to nothing is accounted for, and the run goes on or ends without it. An error: nothing has changed.

    `last`: the step after which it is.
    """
    failure = await compaction.perform(ending)
    if failure is None:
        return None
    log.warning("a context was not compacted", run_id=compaction.run.id, error=failure.error.message)
    compaction.run = ending(replace(compaction.run, usage=compaction.run.usage + failure.usage))
    if failure.step is not None:
        stop_reason = state.STOP_REASON.get(failure.error.type, StopReason.LLM_ERROR)
        done = replace(failure.step, usage=failure.usage, stop_reason=stop_reason, completed_at=compaction.engine.clock())
        compaction.pen.write(EndStep(done, compaction.run))
    elif compaction.run.ended:
        compaction.pen.write(EndStep(last, compaction.run))
    return failure.error


async def relieve(compaction: Compaction, refused: Step) -> RunError | None:
    """After the provider has refused a context as too long. A system prompt that leaves no room is refused by its name."""
    await compaction.pen.flush()
    prompt, window = await compaction.prompt()
    size_of_prompt = await asyncio.to_thread(tokens.count, prompt)
    if size_of_prompt >= window:
        told = f"The system prompt alone, some {size_of_prompt} tokens, does not fit into the model's context window of {window}."
        return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, told)
    error = await compact_on_the_way(compaction, refused)
    if error is None or error.type is not RunErrorType.COMPACTION_INEFFECTIVE:
        return error
    if await compaction.recompile():
        return None
    return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, f"The conversation does not fit into the model's context window. {error.message}")


# ---- a run of its own


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
        stop_reason = state.STOP_REASON.get(failure.error.type, StopReason.LLM_ERROR)
        return Ending(status=RunStatus.FAILED, stop_reason=stop_reason, error=failure.error, usage=failure.usage)


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
