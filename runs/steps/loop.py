"""The loop of one RESPONSE run: call the model, store what it says as it says it, run the tools it asks for, call it again.

It holds no connection and decides nothing about other runs. It ends the run itself when all went well, and answers an `Ending` when
it did not; whoever runs it closes the run then.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from db import agents, conversations, messages, runs
from llm.model import Failed, ModelRequest
from runs import state
from runs.calling import ask
from runs.close import Ending
from runs.compaction.alone import CompactionRun, load_compaction
from runs.compaction.compaction import MAX_OVERFLOWS, Compaction, completed
from runs.compaction.on_the_way import compact_on_the_way, is_due, relieve, shorten_prompt
from runs.engine import Engine
from runs.prompt import turns
from runs.sizes import characters, surely_exceeds, unreported
from runs.steps.answer import Answer
from runs.steps.calls import Calls
from runs.tools.toolbox import Toolbox, toolbox
from runs.writing.pen import Pen
from runs.writing.records import calls_of
from runs.writing.writes import EndStep, Return, Spend, StartStep, Whole
from vocabulary.compaction import CompactionTrigger
from vocabulary.conversations import Agent
from vocabulary.ids import Noun, new_id
from vocabulary.messages import (
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolReturnBody,
    ToolSource,
)
from vocabulary.runs import Run, RunError, RunErrorType, RunKind, RunStatus, Step, StopReason, Usage


@dataclass(slots=True)
class Loop:
    """`run`: as this worker last wrote it. `context`: what the model is shown, growing step by step.

    `steps_done` counts against the limit; what was abandoned, and what wrote a summary, was begun and does not count. `answered`: why the
    model stopped, when an earlier worker has heard it out. `overflows`: how often the provider has refused the step that waits. `in_vain`:
    compacting it came to nothing, and would again.
    """

    engine: Engine
    pen: Pen
    run: Run
    agent: Agent
    context: list[Message]
    steps_begun: int
    steps_done: int
    tools: Toolbox = field(default_factory=Toolbox)
    answered: StopReason | None = None
    overflows: int = 0
    in_vain: bool = False

    async def to_the_end(self) -> Ending | None:
        """None: the run has ended and everything is committed. Raises LeaseLost, WriteRefused."""
        await self._finish_what_waited()
        if self.answered is not None:
            return Ending(status=RunStatus.COMPLETED, stop_reason=self.answered)
        if self.steps_done >= self.run.request.max_steps:
            return Ending(status=RunStatus.COMPLETED, stop_reason=StopReason.MAX_STEPS)
        while not self.run.ended:
            ending = await self._step()
            if ending is not None:
                return ending
        await self.pen.flush()
        return None

    async def _finish_what_waited(self) -> None:
        """The calls that an earlier run had to leave to somebody, and that this run was created to go on with."""
        asked = next((message for message in self.context if message.id == self.run.request.answers), None)
        if asked is not None and not self._has_returned(asked):
            calls = self._calls(asked)
            await calls.answer(approved=True)
            self._return(calls.message)

    def _has_returned(self, asked: Message) -> bool:
        return any(isinstance(message.body, ToolReturnBody) and message.step_id == asked.step_id for message in self.context)

    async def _step(self) -> Ending | None:
        if (error := await self._fit_prompt()) is not None:
            return _failure(Failed(error, Usage()), Usage(), self.run)
        step = self._start_step()
        said = Answer(self.run, step, self.pen, source_of=self._source_of, clock=self.engine.clock)
        model = self.engine.models.resolve(self.run.model)
        spent = await ask(self.engine, self.pen, model, self._request(), step=step, listener=said)
        self._note_first_token(said)
        assert said.end is not None, "a model's stream ends with Finished or Failed"
        spent += said.end.usage
        if isinstance(said.end, Failed):
            return await self._make_room(step, said, said.end, spent)
        if said.end.usage.is_unreported:
            spent += unreported(characters(self.context), characters(said.messages))
        self.context += said.messages
        self.overflows = 0
        step, request = self._add_up(step, spent), None
        if said.tool_calls is not None:
            self.pen.write(Spend(step, self.run))
            request = await self._answer(said.tool_calls)
        await self._end_step(step, said.end.usage, said.end.stop_reason, goes_on=said.tool_calls is not None, request=request)
        return None

    async def _fit_prompt(self) -> RunError | None:
        """Some servers cut what is too long without a word: a system prompt that cannot fit is not sent."""
        window = self.engine.models.window(self.run.model, self.run.request.settings)
        if not await asyncio.to_thread(surely_exceeds, self._system(), window):
            return None
        compaction = self._compaction(CompactionTrigger.CONTEXT_OVERFLOW)
        error = await shorten_prompt(compaction)
        self._follow(compaction, error)
        return error

    def _start_step(self) -> Step:
        step = Step(
            id=new_id(Noun.STEP),
            run_id=self.run.id,
            conversation_id=self.run.conversation_id,
            index=self.steps_begun,
            model=self.run.model,
            usage=Usage(),
            stop_reason=None,
            started_at=self.engine.clock(),
            completed_at=None,
        )
        self.steps_begun += 1
        self.pen.write(StartStep(step, self.run))
        return step

    def _add_up(self, step: Step, usage: Usage) -> Step:
        self.run = replace(self.run, usage=self.run.usage + usage)
        return replace(step, usage=usage)

    async def _end_step(self, step: Step, usage: Usage, stop_reason: StopReason, *, goes_on: bool, request: Message | None) -> None:
        """Ends the run with its last step, so that both are committed together, or with the compaction that is due after it; and what
        the conversation then waits for with them.
        """
        self.steps_done += 1
        ends = not goes_on or self.steps_done >= self.run.request.max_steps
        ended = replace(step, stop_reason=stop_reason, completed_at=self.engine.clock())

        def ending(run: Run) -> Run:
            return completed(run, self.engine, StopReason.MAX_STEPS if goes_on else stop_reason) if ends else run

        if request is not None:
            self.run = completed(self.run, self.engine, StopReason.REQUIRES_APPROVAL)
            self.pen.write(EndStep(ended, self.run, waits_for=request.id))
        elif not self.in_vain and await is_due(self.engine, self.run, self.agent.compaction_settings, usage, self.context):
            self.pen.write(EndStep(ended, self.run))
            compaction = self._compaction(CompactionTrigger.CONTEXT_THRESHOLD)
            error = await compact_on_the_way(compaction, ended, ending)
            self.in_vain = error is not None
            self._follow(compaction, error)
        else:
            self.run = ending(self.run)
            self.pen.write(EndStep(ended, self.run))

    async def _make_room(self, step: Step, said: Answer, failed: Failed, spent: Usage) -> Ending | None:
        """None: the step can be tried again."""
        if said.begun or failed.error.type is not RunErrorType.CONTEXT_WINDOW_OVERFLOW or self.overflows == MAX_OVERFLOWS:
            return _failure(failed, spent, self.run)
        self.overflows += 1
        self.run = replace(self.run, usage=self.run.usage + spent)
        refused = replace(step, usage=spent, stop_reason=StopReason.CONTEXT_WINDOW_OVERFLOW)
        self.pen.write(EndStep(refused, self.run))
        compaction = self._compaction(CompactionTrigger.CONTEXT_OVERFLOW)
        error = await relieve(compaction, refused)
        self._follow(compaction, error)
        return None if error is None else _failure(Failed(error, Usage()), Usage(), self.run)

    def _compaction(self, trigger: CompactionTrigger) -> Compaction:
        return Compaction(
            engine=self.engine,
            pen=self.pen,
            run=self.run,
            settings=self.agent.compaction_settings,
            trigger=trigger,
            steps_begun=self.steps_begun,
            tools=self._request().tools,
            overflows=self.overflows,
        )

    def _follow(self, compaction: Compaction, error: RunError | None) -> None:
        """The context as it is after a compaction, or as it was."""
        self.run, self.steps_begun = compaction.run, compaction.steps_begun
        self.context = self.context if error is not None else compaction.context

    def _note_first_token(self, said: Answer) -> None:
        started = self.run.started_at
        if self.run.time_to_first_token_ms is None and said.first_token_at is not None and started is not None:
            milliseconds = round((said.first_token_at - started).total_seconds() * 1000)
            self.run = replace(self.run, time_to_first_token_ms=milliseconds)

    def _system(self) -> str:
        override = self.run.request.override_system
        return next((message.text for message in self.context if self._is_compiled(message)), "") if override is None else override

    def _request(self) -> ModelRequest:
        return ModelRequest(
            system=self._system(),
            history=turns([message for message in self.context if not self._is_compiled(message)]),
            tools=[tool.definition() for tool in self.tools.values()],
            settings=self.run.request.settings,
        )

    def _is_compiled(self, message: Message) -> bool:
        return message.type is MessageType.SYSTEM and not message.in_tail

    def _source_of(self, tool_name: str) -> ToolSource:
        tool = self.tools.get(tool_name)
        return ToolSource.BUILTIN if tool is None else tool.source

    async def _answer(self, message: Message) -> Message | None:
        """The returns of the calls; the request that was written in their place when some of them wait for somebody."""
        calls = self._calls(message)
        await calls.answer()
        if calls.waiting:
            return self._ask(calls.message, calls.waiting)
        self._return(calls.message)
        return None

    def _calls(self, message: Message) -> Calls:
        window = self.engine.models.window(self.run.model, self.run.request.settings)
        return Calls(self.engine, self.pen, self.run, agent_id=self.agent.id, tools=self.tools, message=message, window=window)

    def _ask(self, calls: Message, waiting: tuple[ToolCall, ...]) -> Message:
        request = self._of_step(calls, MessageType.APPROVAL_REQUEST, ToolCallBody(tool_calls=waiting))
        self.pen.write(Whole(request))
        return request

    def _return(self, calls: Message) -> None:
        returns = tuple(call.returned for call in calls_of(calls) if call.returned is not None)
        message = self._of_step(calls, MessageType.TOOL_RETURN, ToolReturnBody(tool_returns=returns))
        self.pen.write(Return(message, calls))

    def _of_step(self, calls: Message, kind: MessageType, body: MessageBody) -> Message:
        """Of the same step as the calls, which may be an earlier run's, but this run's own."""
        message = replace(
            calls,
            id=new_id(Noun.MESSAGE),
            type=kind,
            status=MessageStatus.COMPLETED,
            body=body,
            run_id=self.run.id,
            created_at=self.engine.clock(),
        )
        self.context.append(message)
        return message


def _failure(failed: Failed, usage: Usage, run: Run) -> Ending:
    stop_reason = state.STOP_REASON.get(failed.error.type, StopReason.LLM_ERROR)
    return Ending(
        status=RunStatus.FAILED,
        stop_reason=stop_reason,
        error=failed.error,
        usage=usage,
        time_to_first_token_ms=run.time_to_first_token_ms,
    )


async def load(engine: Engine, pen: Pen) -> Loop | CompactionRun:
    """Reads what the run needs to begin, or to go on from its last complete step."""
    run = pen.lease.run
    if run.kind is RunKind.COMPACTION:
        return await load_compaction(engine, pen)
    async with engine.database.read() as connection:
        conversation = (await conversations.read(connection, [run.conversation_id]))[run.conversation_id]
        agent = await agents.get(connection, conversation.agent_id)
        context = await messages.context(connection, conversation)
        steps = await runs.steps_of(connection, [run.id])
        written = await messages.of_run(connection, run.id) if steps else []
    assert agent is not None, "agents are never removed while they have conversations"
    tools = toolbox(engine.tools, agent.tools, run.request.client_tools)
    done = [step for step in steps if step.counts]
    answered = _answered(done[-1], written) if done else None
    return Loop(engine, pen, run, agent, context, steps_begun=len(steps), steps_done=len(done), tools=tools, answered=answered)


def _answered(last: Step, written: Sequence[Message]) -> StopReason | None:
    """A step without calls was the last one, and its run has ended with it unless a compaction was to come in between."""
    called = any(message.type is MessageType.TOOL_CALL and message.step_id == last.id for message in written)
    return None if called else last.stop_reason
