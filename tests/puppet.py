"""A model and tools that do the next thing when they are told to, in any number of conversations.

What they do for which run is known by a number in its settings, or by what was said last.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from llm.model import (
    Delta,
    Failed,
    Finished,
    Model,
    ModelEvent,
    ModelRequest,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
    UserTurn,
)
from runs.tools.registry import Arguments, ServerTool, ToolContext, ToolFailed
from tests.runs.scripted import USAGE
from vocabulary.messages import ReasoningBody, TextPart
from vocabulary.runs import RunError, RunErrorType, StopReason

HANDLE = "test/puppet"
NUMBERED = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Bell:
    """Wakes everybody who waits for something to have changed. `rings`: so many times by now."""

    def __init__(self) -> None:
        self.rings = 0
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self.rings += 1
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._rung.wait()


@dataclass(slots=True, eq=False)
class Talk:
    """One call of the model. `before`: how often the same was asked before. `said`: in characters. `waits`: all of it was taken."""

    request: ModelRequest
    before: int = 0
    said: int = 0
    told: asyncio.Queue[ModelEvent] = field(default_factory=asyncio.Queue[ModelEvent])
    waits: bool = False
    _index: int = -1
    _open: list[ModelEvent] = field(default_factory=list[ModelEvent])

    @property
    def owner(self) -> int:
        """The number of its run."""
        return self.request.settings.max_output_tokens or 0

    @property
    def answers(self) -> str:
        """What the user has said last."""
        turn = next(turn for turn in reversed(self.request.history) if isinstance(turn, UserTurn))
        return "".join(part.text for part in turn.content if isinstance(part, TextPart))

    def says(self, text: str, *, reasoning: bool = False) -> None:
        kind = ReasoningStarted if reasoning else TextStarted
        if not (self._open and isinstance(self._open[-1], kind)):
            self._end_text()
            self._begin(kind(self._next()))
        self._tell(Delta(self._index, text))

    def calls(self, name: str, *arguments: str) -> None:
        self._end_text()
        self._begin(ToolCallStarted(self._next(), name, f"given-{self._index}"))
        for piece in arguments:
            self._tell(Delta(self._index, piece))

    def ends(self) -> None:
        if self._index < 0:
            self.says("Done.")
        self._end_text()
        for call in self._open:
            assert isinstance(call, ToolCallStarted)
            self._tell(ToolCallEnded(call.index))
        self._tell(Finished(USAGE, StopReason.END_TURN))

    def fails(self, *, transient: bool) -> None:
        kind = RunErrorType.LLM_OVERLOADED if transient else RunErrorType.LLM_ERROR
        self._tell(Failed(RunError(kind, "It broke."), USAGE, transient=transient))

    def _next(self) -> int:
        self._index += 1
        return self._index

    def _begin(self, event: ModelEvent) -> None:
        self._open.append(event)
        self._tell(event)

    def _end_text(self) -> None:
        if self._open and isinstance(begun := self._open[-1], TextStarted | ReasoningStarted):
            body = ReasoningBody(signature="signed")
            self._tell(TextEnded(begun.index) if isinstance(begun, TextStarted) else ReasoningEnded(begun.index, body))
            self._open.pop()

    def _tell(self, event: ModelEvent) -> None:
        self.waits = False
        self.said += len(event.text) if isinstance(event, Delta) else 0
        self.told.put_nowait(event)


@dataclass(slots=True, eq=False)
class Work:
    """One call of a tool."""

    owner: int
    outcome: asyncio.Future[str]

    def returns(self, output: str) -> None:
        self.outcome.set_result(output)

    def fails(self) -> None:
        self.outcome.set_exception(ToolFailed("It broke."))


class Puppet(Model):
    """`talks`, `works`: under way, oldest first. `used`: the numbers of all calls of tools that were ever begun. By owner, `steps`: how
    many were begun; `heard_out`: how many calls of the model came to an end that stands. `bell`: rung when any of it has changed.
    """

    def __init__(self) -> None:
        self.bell = Bell()
        self.talks: list[Talk] = []
        self.works: list[Work] = []
        self.used: list[int] = []
        self.requests: list[ModelRequest] = []
        self.steps: Counter[int] = Counter()
        self.heard_out: Counter[int] = Counter()
        self._failed: dict[int, int] = {}

    @property
    def handle(self) -> str:
        return HANDLE

    async def asked(self, text: str) -> Talk:
        """Waits for the model to be asked about this."""
        await self.bell.until(lambda: any(talk.answers == text for talk in self.talks))
        return next(talk for talk in self.talks if talk.answers == text)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        self.requests.append(request)
        talk = Talk(request)
        talk.before = self._failed.pop(talk.owner, 0)
        self.steps[talk.owner] += not talk.before
        self.talks.append(talk)
        try:
            event: ModelEvent | None = None
            while not isinstance(event, Finished | Failed):
                if talk.told.empty():
                    talk.waits = True
                    self.bell.ring()
                event = await talk.told.get()
                if isinstance(event, Failed) and event.transient:
                    self._failed[talk.owner] = talk.before + 1
                self.heard_out[talk.owner] += isinstance(event, Finished) or (isinstance(event, Failed) and not event.transient)
                yield event
        finally:
            self.talks.remove(talk)
            self.bell.ring()

    def tools(self) -> list[ServerTool]:
        return [self._tool("work", requires_approval=False), self._tool("blow", requires_approval=True)]

    def _tool(self, name: str, *, requires_approval: bool) -> ServerTool:
        async def run(arguments: Arguments, context: ToolContext) -> str:
            self.used.append(arguments["n"])
            work = Work(context.run.request.settings.max_output_tokens or 0, asyncio.get_running_loop().create_future())
            self.works.append(work)
            self.bell.ring()
            try:
                return await work.outcome
            finally:
                self.works.remove(work)
                self.bell.ring()

        return ServerTool(name=name, description="", parameters=NUMBERED, run=run, requires_approval=requires_approval)
