"""What a summariser says: one model call becoming a text that nobody is shown before it is whole. What it is asked is `summariser.py`'s."""

from dataclasses import dataclass, field

from llm.model import Delta, Failed, Finished, ModelEvent, TextStarted
from vocabulary.runs import RunError, RunErrorType, StopReason, Usage

_EMPTY = RunError(RunErrorType.LLM_EMPTY_RESPONSE, "The summariser answered without a summary.")
_FILTERED = RunError(RunErrorType.LLM_ERROR, "The provider's content filter stopped the summariser.")


@dataclass(slots=True)
class Summary:
    """Feed it every event of one call. Only what is said aloud counts: reasoning and calls of tools are passed over."""

    begun: bool = False
    end: Finished | Failed | None = None
    _spoken: set[int] = field(default_factory=set[int])
    _pieces: list[str] = field(default_factory=list[str])

    def take(self, event: ModelEvent) -> None:
        self.begun = self.begun or not isinstance(event, Finished | Failed)
        match event:
            case TextStarted(index):
                self._spoken.add(index)
            case Delta(index, text) if index in self._spoken:
                self._pieces.append(text)
            case Finished() | Failed():
                self.end = event
            case _:
                pass

    @property
    def text(self) -> str:
        return "".join(self._pieces).strip()

    @property
    def error(self) -> RunError | None:
        if isinstance(self.end, Failed):
            return self.end.error
        if self.stop_reason is StopReason.CONTENT_FILTER:
            return _FILTERED
        return None if self.text else _EMPTY

    @property
    def stop_reason(self) -> StopReason | None:
        """None: the call has failed."""
        return self.end.stop_reason if isinstance(self.end, Finished) else None

    @property
    def usage(self) -> Usage:
        assert self.end is not None, "a model's stream ends with Finished or Failed"
        return self.end.usage
