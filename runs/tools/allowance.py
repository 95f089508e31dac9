"""How much work checks may take together: CPU time of the thread they are in, so that neither a busy nor a paused machine uses it up."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from time import thread_time

_ALLOWANCE_S = 0.25

_until: ContextVar[float | None] = ContextVar("until", default=None)


class TooMuchWork(Exception):
    """The allowance is used up, or surely would be."""


@contextmanager
def allowance(cpu_s: float = _ALLOWANCE_S) -> Generator[None]:
    """For all that is checked inside. One inside another adds nothing to it."""
    if _until.get() is not None:
        yield
        return
    token = _until.set(thread_time() + cpu_s)
    try:
        yield
    finally:
        _until.reset(token)


def go_on() -> None:
    """Raises TooMuchWork. To be asked before each piece of work that is about linear in what came from outside."""
    until = _until.get()
    if until is None or thread_time() > until:
        raise TooMuchWork
