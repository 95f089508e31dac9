"""The loop of one RESPONSE run: call the model, store what it says as it says it, run the tools it asks for, call it again.

It holds no connection and decides nothing about other runs. It ends the run itself when all went well, and answers an `Ending` when
it did not; whoever runs it closes the run then.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from db import agents, conversations, messages, runs
from llm.model import Failed, ModelRequest, ToolDefinition
from runs import state
from runs.answer import Answer
from runs.close import Ending
from runs.compaction import (
    MAX_OVERFLOWS,
    Compaction,
    CompactionRun,
    compact_on_the_way,
    completed,
    is_due,
    load_compaction,
    relieve,
)
from runs.engine import Engine
from runs.pen import Pen
from runs.prompt import turns
from runs.tools import ServerTool, answer
from runs.writes import Call, EndStep, StartStep, Whole
from vocabulary.compaction import CompactionTrigger
from vocabulary.conversations import Agent
from vocabulary.ids import Noun, new_id
from vocabulary.messages import (
    Message,
    MessageStatus,
    MessageType,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
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
    tools: dict[str, ServerTool] = field(default_factory=dict[str, ServerTool])
    answered: StopReason | None = None
    overflows: int = 0
    in_vain: bool = False

    async def to_the_end(self) -> Ending | None:
        """None: the run has ended and everything is committed. Raises LeaseLost, WriteRefused."""
        if self.answered is not None:
            return Ending(status=RunStatus.COMPLETED, stop_reason=self.answered)
        while True:
            ending = await self._step()
            if ending is not None:
                return ending
            if self.run.ended:
                await self.pen.flush()
                return None

    async def _step(self) -> Ending | None:
        step = self._start_step()
        said = Answer(self.run, step, self.pen, source_of=self._source_of, clock=self.engine.clock)
        model = self.engine.models.resolve(self.run.model)
        async with aclosing(model.stream(self._request())) as stream:
            async for event in stream:
                said.take(event)
                await self.pen.room()
        self._note_first_token(said)
        assert said.end is not None, "a model's stream ends with Finished or Failed"
        if isinstance(said.end, Failed):
            return await self._make_room(step, said, said.end)
        self.context += said.messages
        self.overflows = 0
        if said.tool_calls is not None:
            await self._run_tools(said.tool_calls)
        await self._end_step(step, said.end.usage, said.end.stop_reason, goes_on=said.tool_calls is not None)
        return None

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

    async def _end_step(self, step: Step, usage: Usage, stop_reason: StopReason, *, goes_on: bool) -> None:
        """Ends the run with its last step, so that both are committed together, or with the compaction that is due after it."""
        self.steps_done += 1
        ends = not goes_on or self.steps_done >= self.run.request.max_steps
        self.run = replace(self.run, usage=self.run.usage + usage)
        ended = replace(step, usage=usage, stop_reason=stop_reason, completed_at=self.engine.clock())

        def ending(run: Run) -> Run:
            return completed(run, self.engine, StopReason.MAX_STEPS if goes_on else stop_reason) if ends else run

        if not self.in_vain and await is_due(self.engine, self.run, self.agent.compaction_settings, usage, self.context):
            self.pen.write(EndStep(ended, self.run))
            compaction = self._compaction(CompactionTrigger.CONTEXT_THRESHOLD)
            error = await compact_on_the_way(compaction, ended, ending)
            self.in_vain = error is not None
            self._follow(compaction, error)
        else:
            self.run = ending(self.run)
            self.pen.write(EndStep(ended, self.run))

    async def _make_room(self, step: Step, said: Answer, failed: Failed) -> Ending | None:
        """None: the step can be tried again."""
        if said.begun or failed.error.type is not RunErrorType.CONTEXT_WINDOW_OVERFLOW or self.overflows == MAX_OVERFLOWS:
            return _failure(failed, self.run)
        self.overflows += 1
        self.run = replace(self.run, usage=self.run.usage + failed.usage)
        refused = replace(step, usage=failed.usage, stop_reason=StopReason.CONTEXT_WINDOW_OVERFLOW)
        self.pen.write(EndStep(refused, self.run))
        compaction = self._compaction(CompactionTrigger.CONTEXT_OVERFLOW)
        error = await relieve(compaction, refused)
        self._follow(compaction, error)
        return None if error is None else _failure(Failed(error, Usage()), self.run)

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

    def _request(self) -> ModelRequest:
        system = next((message.text for message in self.context if self._is_compiled(message)), "")
        return ModelRequest(
            system=system if self.run.request.override_system is None else self.run.request.override_system,
            history=turns([message for message in self.context if not self._is_compiled(message)]),
            tools=[ToolDefinition(tool.name, tool.description, tool.parameters) for tool in self.tools.values()],
            settings=self.run.request.settings,
        )

    def _is_compiled(self, message: Message) -> bool:
        return message.type is MessageType.SYSTEM and not message.in_tail

    def _source_of(self, tool_name: str) -> ToolSource:
        tool = self.tools.get(tool_name)
        return ToolSource.BUILTIN if tool is None else tool.source

    async def _run_tools(self, message: Message) -> None:
        """Each call is stored as RUNNING before it runs, so that a crash can never lead to a second run of it."""
        assert isinstance(message.body, ToolCallBody)
        for call in message.body.tool_calls:
            message = self._move(message, call, ToolCallState.RUNNING)
        await self.pen.flush()
        assert isinstance(message.body, ToolCallBody)
        returns = [await self._answer(call) for call in message.body.tool_calls]
        for call, returned in zip(message.body.tool_calls, returns, strict=True):
            succeeded = returned.status is ToolReturnStatus.SUCCESS
            message = self._move(message, call, ToolCallState.COMPLETED if succeeded else ToolCallState.FAILED)
        self._return(message, returns)

    async def _answer(self, call: ToolCall) -> ToolReturn:
        return await answer(call, self.tools.get(call.name))

    def _move(self, message: Message, call: ToolCall, new: ToolCallState) -> Message:
        assert isinstance(message.body, ToolCallBody)
        moved = replace(call, state=state.moved(state.TOOL_CALL, call.state, new))
        calls = tuple(moved if other.id == call.id else other for other in message.body.tool_calls)
        message = replace(message, body=ToolCallBody(tool_calls=calls))
        self.pen.write(Call(message, moved, stored=True))
        return message

    def _return(self, calls: Message, returns: list[ToolReturn]) -> None:
        message = replace(
            calls,
            id=new_id(Noun.MESSAGE),
            type=MessageType.TOOL_RETURN,
            status=MessageStatus.COMPLETED,
            body=ToolReturnBody(tool_returns=tuple(returns)),
            created_at=self.engine.clock(),
        )
        self.context.append(message)
        self.pen.write(Whole(message))


def _failure(failed: Failed, run: Run) -> Ending:
    stop_reason = state.STOP_REASON.get(failed.error.type, StopReason.LLM_ERROR)
    return Ending(
        status=RunStatus.FAILED,
        stop_reason=stop_reason,
        error=failed.error,
        usage=failed.usage,
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
    tools = {tool.name: tool for given in agent.tools if (tool := engine.tools.get(given.name)) is not None}
    done = [step for step in steps if step.completed_at is not None and step.kind is RunKind.RESPONSE]
    answered = _answered(done[-1], written) if done else None
    return Loop(engine, pen, run, agent, context, steps_begun=len(steps), steps_done=len(done), tools=tools, answered=answered)


def _answered(last: Step, written: Sequence[Message]) -> StopReason | None:
    """A step without calls was the last one, and its run has ended with it unless a compaction was to come in between."""
    called = any(message.type is MessageType.TOOL_CALL and message.step_id == last.id for message in written)
    return None if called else last.stop_reason
