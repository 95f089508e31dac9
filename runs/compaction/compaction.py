"""Compacting, on the worker's side: a summary is written, and the context becomes system message, summary and tail, in one fenced batch.

A run of kind COMPACTION does nothing else; a RESPONSE does it on its way, when its context has grown too large. Until that batch is
committed nothing has changed, whatever happens, so whoever takes such a run over begins anew, and whoever cancels it undoes nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from llm.model import Model, ModelRequest, ToolDefinition
from llm.registry import ModelNotFound
from runs import state
from runs.calling import ask
from runs.compaction.context import Context, read_context
from runs.compaction.cuts import SLIDING, Cut, Room, choose
from runs.compaction.summariser import SELF, Assignment, length, requests, summariser
from runs.compaction.summary import Summary
from runs.engine import Engine
from runs.sizes import size, unreported
from runs.writing.pen import Pen
from runs.writing.writes import Compact, EndStep, Recompile, StartStep, Summarise, Write
from streams.patience import patiently
from vocabulary.compaction import CompactionSettings, CompactionStats, CompactionTrigger
from vocabulary.ids import Noun, new_id
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import Run, RunError, RunErrorType, RunKind, RunStatus, Step, StopReason, Usage

MAX_OVERFLOWS = 3
"""How often one step is tried again with a smaller context before its run fails."""

_LONGEST_SUMMARY = 1_000  # tokens that are kept free for it; a small window gives a tenth of itself
_AWAY_S = 0.5  # between two questions to a database that does not answer
_RELIEF = 0.25  # of the context, more after each overflow

_NOTHING = RunError(RunErrorType.COMPACTION_INEFFECTIVE, "The context holds too little to be compacted.")
_INEFFECTIVE = RunError(RunErrorType.COMPACTION_INEFFECTIVE, "The summary would not have been shorter than what it was to replace.")
_TOO_LONG = RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, "Not even a shortened transcript fits into the summariser's window.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Nothing has changed. `step`: the one that was begun for it and is still open; None: none was. `stopped`: why its model did."""

    error: RunError
    step: Step | None = None
    usage: Usage = field(default_factory=Usage)
    stopped: StopReason | None = None

    @property
    def stop_reason(self) -> StopReason:
        if self.stopped is None or self.stopped is StopReason.END_TURN:
            return state.STOP_REASON.get(self.error.type, StopReason.LLM_ERROR)
        return self.stopped


async def _begun(ladder: Iterator[ModelRequest]) -> Iterator[ModelRequest] | None:
    """None: there is nothing in it."""
    first = await asyncio.to_thread(next, ladder, None)
    return None if first is None else chain([first], ladder)


def _too_small(window: int) -> RunError:
    told = f"The summariser's context window of {window} tokens is too small: its prompt leaves too little room for what it is to sum up."
    return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, told)


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
        self.context = list((await self._before()).messages)
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
        given = self._assignment(model, before, cut)
        window = self.engine.models.window(model.handle, given.model_settings)
        ladder = await _begun(requests(given, window))
        if ladder is None:
            return Failure(error=_too_small(window))
        step = self._start(model)
        said = await self._summarised(model, ladder, step)
        if said.error is not None:
            return Failure(error=said.error, step=step, usage=said.usage, stopped=said.stop_reason)
        before = await self._before()  # memory may have changed, and calls that waited been decided; the cut has not
        stats = await asyncio.to_thread(self._stats, before, cut, said.text)
        if stats is None:
            return Failure(error=_INEFFECTIVE, step=step, usage=said.usage)
        await self._write(before, cut, said, stats, step, ending)
        return None

    async def _before(self) -> Context:
        """However long the database is away: a summary that is paid for is not thrown away for that, nor the answer that needs it."""
        return await patiently(lambda: read_context(self.engine, self.run.conversation_id), every_s=_AWAY_S)

    # ---- deciding

    def _cut(self, before: Context) -> Cut | None:
        estimates = before.sizes.estimates
        fixed = len(before.messages) - len(before.tail)
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

    def _room(self, before: Context, estimates: Sequence[int]) -> Room:
        """In our tokens. What overflowed although it should have fitted must shrink all the same: the window is smaller than we know."""
        window = self._window(before)
        budget = self.settings.trigger_fraction * window / before.sizes.scale
        if self.overflows:
            budget = min(budget, sum(estimates) * (1 - _RELIEF * self.overflows))
        system = 0 if before.compiled is None else estimates[0]
        return Room(fixed=system + min(_LONGEST_SUMMARY, window // 10), budget=budget)

    def _own_model(self, before: Context) -> str:
        """Whose context it is."""
        return self.run.model if self.run.kind is RunKind.RESPONSE else before.conversation.model or before.agent.model

    def _window(self, before: Context) -> int:
        return self.engine.models.window(self._own_model(before), self.run.request.settings)

    def _summariser(self, before: Context, cut: Cut) -> str:
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

    def _assignment(self, model: Model, before: Context, cut: Cut) -> Assignment:
        is_own = model.handle == self._own_model(before)
        return Assignment(
            shown=[*([] if before.summary is None else [before.summary]), *cut.evicted],
            mode=cut.mode,
            settings=self.settings,
            model_settings=(self.settings.model_settings or ModelSettings()).over(self._inherited() if is_own else ModelSettings()),
            system="" if before.compiled is None else before.compiled.text,
            tools=self.tools,
        )

    def _inherited(self) -> ModelSettings:
        """How much the model may answer says nothing of how long a summary of everything needs to be."""
        return replace(self.run.request.settings, max_output_tokens=None)

    async def _summarised(self, model: Model, ladder: Iterator[ModelRequest], step: Step) -> "_Said":
        usage = Usage()
        while (request := await asyncio.to_thread(next, ladder, None)) is not None:
            summary = Summary()
            usage += await ask(self.engine, self.pen, model, request, step=step, listener=summary)
            usage += summary.usage
            if summary.usage.is_unreported and (summary.begun or summary.stop_reason is not None):
                usage += unreported(length(request), len(summary.text))
            if summary.error is None or summary.error.type is not RunErrorType.CONTEXT_WINDOW_OVERFLOW:
                text = summary.text[: self.settings.clip_chars].strip()
                return _Said(text=text, error=summary.error, usage=usage, stop_reason=summary.stop_reason)
        return _Said(error=_TOO_LONG, usage=usage)

    def _stats(self, before: Context, cut: Cut, text: str) -> CompactionStats | None:
        """None: it came to nothing."""
        estimates = before.sizes.estimates
        kept = estimates[len(before.messages) - len(before.tail) + len(cut.evicted) :]
        system = () if before.compiled is None else (size(replace(before.compiled, text=before.system)),)
        summary = size(self._message(text, step_id=None))
        scale = before.sizes.scale
        tokens_before, tokens_after = (round(sum(part) * scale) for part in (estimates, (*system, summary, *kept)))
        messages_after = len(system) + 1 + len(kept)
        if messages_after >= len(before.messages) or tokens_after >= tokens_before:
            return None
        return CompactionStats(
            trigger=self.trigger,
            mode=cut.mode,
            messages_before=len(before.messages),
            messages_after=messages_after,
            tokens_before=tokens_before,
            tokens_after=tokens_after,
        )

    # ---- writing

    async def _write(
        self, before: Context, cut: Cut, said: "_Said", stats: CompactionStats, step: Step, ending: Callable[[Run], Run]
    ) -> None:
        message = replace(self._message(said.text, step_id=step.id), body=SummaryBody(stats=stats))
        first_kept = cut.kept[0] if cut.kept else None
        done = replace(step, usage=said.usage, stop_reason=said.stop_reason, completed_at=self.engine.clock())
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
            self.context = list((await self._before()).messages)

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


def _recompiled(before: Context) -> list[Write]:
    """The caches of the old prompt are cold now anyway."""
    if before.compiled is None or before.compiled.text == before.system:
        return []
    return [Recompile(before.compiled)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """By the summariser in all calls that it took. `stop_reason`: of the last; None: it has failed."""

    text: str = ""
    error: RunError | None = None
    usage: Usage = field(default_factory=Usage)
    stop_reason: StopReason | None = None
