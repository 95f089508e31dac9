"""The same server, as simple as it can be thought: lists and dictionaries. What it holds is what the real one must show."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count


@dataclass(frozen=True, slots=True)
class Entry:
    """A message of the history. `in_context`: the model is shown it."""

    kind: str
    text: str
    status: str = "COMPLETED"
    in_context: bool = True


@dataclass(slots=True)
class Turn:
    """A run: what was said, and what has been answered so far."""

    run_id: str
    texts: tuple[str, ...]
    status: str = "QUEUED"
    answer: str = ""

    @property
    def last(self) -> str:
        return self.texts[-1]

    @property
    def live(self) -> bool:
        return self.status in ("QUEUED", "RUNNING")


@dataclass(slots=True)
class Thread:
    """A conversation. `turns` in the order of their sending; `line` in the order in which they will run, the running one first."""

    id: str
    summary: str | None
    history: list[Entry]
    turns: list[Turn] = field(default_factory=list[Turn])
    line: list[Turn] = field(default_factory=list[Turn])

    @property
    def running(self) -> Turn | None:
        return self.line[0] if self.line else None

    @property
    def status(self) -> str:
        return "RUNNING" if self.line else "IDLE"

    @property
    def context(self) -> list[str]:
        return [entry.text for entry in self.history if entry.in_context and entry.kind in ("USER", "ASSISTANT")]

    def send(self, turn: Turn, *, first: bool = False) -> None:
        self.turns.append(turn)
        self.line.insert(0 if first else len(self.line), turn)
        self._start_next()

    def answer(self, text: str) -> None:
        assert self.running is not None
        self.running.answer += text

    def finish(self) -> None:
        self._end("COMPLETED", "COMPLETED")

    def fail(self, error: str) -> None:
        turn = self._close("FAILED", "INTERRUPTED")
        assert turn
        self.history.append(Entry("ERROR", error, in_context=False))
        self._start_next()

    def cancel(self, turn: Turn) -> None:
        if turn is self.running:
            self._end("CANCELLED", "INTERRUPTED")
        else:
            turn.status = "CANCELLED"
            self.line.remove(turn)

    def interrupt(self, turn: Turn) -> None:
        self._close("CANCELLED", "INTERRUPTED")
        self.send(turn, first=True)

    def cancel_all(self) -> None:
        for turn in self.line[1:]:
            self.cancel(turn)
        self.cancel(self.line[0])

    def forked(self, id_: str, through: int | None) -> "Thread":
        entries = self.history if through is None else self.history[: through + 1]
        return Thread(id_, self.summary, [replace(entry) for entry in entries if entry.in_context])

    def _end(self, status: str, of_answer: str) -> None:
        self._close(status, of_answer)
        self._start_next()

    def _close(self, status: str, of_answer: str) -> Turn:
        turn = self.line.pop(0)
        turn.status = status
        if turn.answer:
            self.history.append(Entry("ASSISTANT", turn.answer, of_answer))
        return turn

    def _start_next(self) -> None:
        if self.line and self.line[0].status == "QUEUED":
            self.line[0].status = "RUNNING"
            self.history += [Entry("USER", text) for text in self.line[0].texts]


def names() -> Iterator[str]:
    return (f"saying {number}" for number in count(1))
