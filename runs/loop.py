"""The loop of one RESPONSE run: call the model, store what it says as it says it, run the tools it asks for, call it again.

It holds no connection and decides nothing about other runs. It ends the run itself when all went well, and answers an `Ending` when
it did not; whoever runs it closes the run then.
"""

from dataclasses import dataclass, field, replace

from db import agents, conversations, messages, runs
from llm.model import Failed, ModelRequest, ToolDefinition
from runs import state
from runs.answer import Answer
from runs.calling import ask
from runs.close import Ending
from runs.engine import Engine
from runs.pen import Pen
from runs.prompt import turns
from runs.tools import ServerTool, answer
from runs.writes import Call, EndStep, Spend, StartStep, Whole
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
from vocabulary.runs import Run, RunErrorType, RunStatus, Step, StopReason, Usage

_STOP_REASON = {
    RunErrorType.LLM_EMPTY_RESPONSE: StopReason.INVALID_LLM_RESPONSE,
    RunErrorType.CONTEXT_WINDOW_OVERFLOW: StopReason.CONTEXT_WINDOW_OVERFLOW,
    RunErrorType.INTERNAL: StopReason.ERROR,
}


@dataclass(slots=True)
class Loop:
    """`run`: as this worker last wrote it. `context`: what the model is shown, growing step by step.

    `steps_done` counts against the limit; what a takeover abandoned was begun and is not done.
    """

    engine: Engine
    pen: Pen
    run: Run
    agent: Agent
    context: list[Message]
    steps_begun: int
    steps_done: int
    tools: dict[str, ServerTool] = field(default_factory=dict[str, ServerTool])

    async def to_the_end(self) -> Ending | None:
        """None: the run has ended and everything is committed. Raises LeaseLost, WriteRefused."""
        if self.steps_done >= self.run.request.max_steps:
            return Ending(status=RunStatus.COMPLETED, stop_reason=StopReason.MAX_STEPS)
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
        await ask(self.engine, model, self._request(), said, self.pen)
        self._note_first_token(said)
        assert said.end is not None, "a model's stream ends with Finished or Failed"
        if isinstance(said.end, Failed):
            return _failure(said.end, said.usage, self.run)
        self.context += said.messages
        step = self._add_up(step, said.usage)
        if said.tool_calls is not None:
            self.pen.write(Spend(step, self.run))
            await self._run_tools(said.tool_calls)
        self._end_step(step, said.end.stop_reason, goes_on=said.tool_calls is not None)
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

    def _add_up(self, step: Step, usage: Usage) -> Step:
        self.run = replace(self.run, usage=self.run.usage + usage)
        return replace(step, usage=usage)

    def _end_step(self, step: Step, stop_reason: StopReason, *, goes_on: bool) -> None:
        """Ends the run with its last step, so that both are committed together."""
        now = self.engine.clock()
        self.steps_done += 1
        run = self.run
        if not goes_on or self.steps_done >= run.request.max_steps:
            completed = state.moved(state.RUN, run.status, RunStatus.COMPLETED)
            run = replace(run, status=completed, stop_reason=StopReason.MAX_STEPS if goes_on else stop_reason, completed_at=now)
        self.run = run
        self.pen.write(EndStep(replace(step, stop_reason=stop_reason, completed_at=now), run))

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


def _failure(failed: Failed, usage: Usage, run: Run) -> Ending:
    stop_reason = _STOP_REASON.get(failed.error.type, StopReason.LLM_ERROR)
    return Ending(
        status=RunStatus.FAILED,
        stop_reason=stop_reason,
        error=failed.error,
        usage=usage,
        time_to_first_token_ms=run.time_to_first_token_ms,
    )


async def load(engine: Engine, pen: Pen) -> Loop:
    """Reads what the run needs to begin, or to go on from its last complete step."""
    run = pen.lease.run
    async with engine.database.read() as connection:
        conversation = (await conversations.read(connection, [run.conversation_id]))[run.conversation_id]
        agent = await agents.get(connection, conversation.agent_id)
        context = await messages.context(connection, conversation)
        steps = await runs.steps_of(connection, [run.id])
    assert agent is not None, "agents are never removed while they have conversations"
    tools = {tool.name: tool for given in agent.tools if (tool := engine.tools.get(given.name)) is not None}
    done = sum(step.completed_at is not None for step in steps)
    return Loop(engine, pen, run, agent, context, steps_begun=len(steps), steps_done=done, tools=tools)
