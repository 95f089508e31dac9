"""What every line of the log goes through on its way. Where lines go is told in `composition.py`."""

import sys

from structlog.typing import EventDict, WrappedLogger


def name_wordless_error(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """An error without words, as that of a deadline, is shown by its name. It must be logged while it is handled."""
    error = _single(sys.exception())
    return {**line, "error": repr(error)} if line.get("error") == "" and error is not None else line


def _single(error: BaseException | None) -> BaseException | None:
    """What `except*` handles comes in a group."""
    match error:
        case BaseExceptionGroup(exceptions=(first, *_)):
            return _single(first)
        case _:
            return error
