"""The calls of one step: which are run now, which wait for somebody, and what those that are over have returned.

What a call returned is kept with it until all of its step have returned. So a crash in the middle loses nothing of what was done,
and those that somebody has to approve, or the client has to run, may take their time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from runs import state
from runs.engine import Engine
from runs.steps.once import once
from runs.tools.registry import Effect, ToolContext, ToolFailed, answer, error_return
from runs.tools.schemas import complaint
from runs.tools.toolbox import Toolbox
from runs.writing.pen import LeaseLost, Pen
from runs.writing.records import calls_of
from runs.writing.writes import Call
from vocabulary.messages import AWAITING, Message, ToolCall, ToolCallBody, ToolCallState, ToolReturn, ToolReturnStatus
from vocabulary.runs import Run

_CHARACTERS_OF_A_TOKEN = 4
_SHARE_OF_WINDOW = 0.25  # for all returns of a step
_FEWEST_CHARACTERS = 1000


class Calls:
    """`message`: their TOOL_CALL message, as it is now. `window`: of the model, in tokens."""

    def __init__(self, engine: Engine, pen: Pen, run: Run, *, agent_id: str, tools: Toolbox, message: Message, window: int) -> None:
        self._engine = engine
        self._pen = pen
        self._run = run
        self._agent_id = agent_id
        self._tools = tools
        self._most_characters = most_characters(window, len(calls_of(message)))
        self._settling = asyncio.Lock()  # no two write the message at the same time
        self.message = message

    @property
    def waiting(self) -> tuple[ToolCall, ...]:
        return tuple(call for call in calls_of(self.message) if call.state in AWAITING)

    async def answer(self, *, approved: bool = False) -> None:
        """Runs what may be run; afterwards each call has returned or waits for somebody. `approved`: those PENDING are, by somebody."""
        pending = [call for call in calls_of(self.message) if call.state is ToolCallState.PENDING]
        ready: list[ToolCall] = []
        for call in pending:
            if self._may_run(call, approved=approved):
                ready.append(call)
            await asyncio.sleep(0)  # a check of arguments may take its time, and those of many calls should not add up
        together = self._run.request.settings.parallel_tool_calls is not False
        for group in [ready] if together else [[call] for call in ready]:
            await self._run_together(group)

    def _may_run(self, call: ToolCall, *, approved: bool) -> bool:
        tool = self._tools.get(call.name)
        if tool is None or (approved and tool.server is None):
            self._settle(call, error_return(call, f"There is no tool named {call.name!r}."))
        elif (why := complaint(tool.parameters, call.arguments_text)) is not None:
            self._settle(call, error_return(call, why))
        elif approved or not (tool.requires_approval or tool.server is None):
            return True
        else:
            self._move(call, ToolCallState.AWAITING_APPROVAL if tool.requires_approval else ToolCallState.AWAITING_CLIENT)
        return False

    async def _run_together(self, calls: Sequence[ToolCall]) -> None:
        """Each call is stored as RUNNING before it runs, so that a crash can never lead to a second run of it."""
        running = [self._move(call, ToolCallState.RUNNING) for call in calls]
        await self._pen.flush()
        tasks = [asyncio.create_task(self._run_one(call), name=f"advance {self._run.conversation_id}: {call.name}") for call in running]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_one(self, call: ToolCall) -> None:
        tool = self._tools[call.name].server
        assert tool is not None, "what the client runs is not run here"

        async def in_return(effect: Effect) -> str:
            return await self._once(call, effect)

        context = ToolContext(run=self._run, agent_id=self._agent_id, database=self._engine.database, once=in_return)
        returned = await answer(call, tool, context, most_characters=self._most_characters)
        async with self._settling:
            if self._now(call).returned is None:
                self._settle(call, returned)

    async def _once(self, call: ToolCall, effect: Effect) -> str:
        async with self._settling:
            try:
                await self._pen.flush()
                self.message = await once(self._engine, self._pen, self.message.id, call.id, effect, most_characters=self._most_characters)
            except LeaseLost:
                raise ToolFailed("The run is somebody else's by now.") from None  # and its next write will tell it so
            returned = self._now(call).returned
            assert returned is not None, "an effect is stored with its return"
            return returned.output

    def _now(self, call: ToolCall) -> ToolCall:
        return next(other for other in calls_of(self.message) if other.id == call.id)

    def _settle(self, call: ToolCall, returned: ToolReturn) -> None:
        succeeded = returned.status is ToolReturnStatus.SUCCESS
        self._move(replace(call, returned=returned), ToolCallState.COMPLETED if succeeded else ToolCallState.FAILED)

    def _move(self, call: ToolCall, new: ToolCallState) -> ToolCall:
        moved = replace(call, state=state.moved(state.TOOL_CALL, call.state, new))
        calls = tuple(moved if other.id == call.id else other for other in calls_of(self.message))
        self.message = replace(self.message, body=ToolCallBody(tool_calls=calls))
        self._pen.write(Call(self.message, moved, stored=True))
        return moved


def most_characters(window: int, calls: int) -> int:
    """How long the return of each of so many calls may be."""
    return max(_FEWEST_CHARACTERS, int(window * _CHARACTERS_OF_A_TOKEN * _SHARE_OF_WINDOW / max(1, calls)))
