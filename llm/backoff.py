"""When a model is asked again after a failure that may pass: how often, after how long, and when it is enough. Pure."""

import random
from dataclasses import dataclass

from llm.model import Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """Of one step. Delays double from `first_delay_s` to `longest_delay_s`; nobody is asked later than `total_s` after the first call."""

    retries: int = 4
    first_delay_s: float = 1.0
    longest_delay_s: float = 30.0
    total_s: float = 120.0


class Backoff:
    """One step's calls. Times are those of one clock, in seconds."""

    def __init__(self, limits: RetryLimits, *, now: float) -> None:
        self._limits = limits
        self._until = now + limits.total_s
        self.attempt = 1
        """The call that is under way, from 1."""

    def delay_s(self, failed: Failed, *, now: float) -> float | None:
        """How long to wait before the next call, which counts from now on; None: it stays failed.

        A provider that says when is not asked sooner; if that is too late for us, it is not asked at all.
        """
        if not failed.transient or self.attempt > self._limits.retries:
            return None
        delay_s = max(self._jittered_s(), failed.retry_after_s or 0)
        if now + delay_s > self._until:
            return None
        self.attempt += 1
        return delay_s

    def _jittered_s(self) -> float:
        """So that those who were refused together do not come back together."""
        longest = min(self._limits.longest_delay_s, self._limits.first_delay_s * 2 ** (self.attempt - 1))
        return longest * random.uniform(0.5, 1)
