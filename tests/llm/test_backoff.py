"""When another try is made, and when it is enough."""

import pytest

from llm.backoff import Backoff, RetryLimits
from llm.model import Failed
from vocabulary.runs import RunError, RunErrorType, Usage

LIMITS = RetryLimits(retries=6, first_delay_s=1, longest_delay_s=10, total_s=100)


def _failed(*, transient: bool = True, retry_after_s: float | None = None) -> Failed:
    return Failed(RunError(RunErrorType.LLM_RATE_LIMIT, "Slowly."), Usage(requests=1), transient, retry_after_s)


def test_delays_double_up_to_the_longest_and_end_with_the_number_of_retries() -> None:
    backoff = Backoff(LIMITS, now=0)
    delays = [backoff.delay_s(_failed(), now=0) for _ in range(7)]
    for delay_s, longest_s in zip(delays, [1, 2, 4, 8, 10, 10], strict=False):
        assert delay_s is not None
        assert longest_s / 2 <= delay_s <= longest_s
    assert delays[6] is None


def test_delays_are_not_the_same_for_all() -> None:
    assert len({Backoff(LIMITS, now=0).delay_s(_failed(), now=0) for _ in range(20)}) > 1


def test_what_does_not_pass_is_not_tried_again() -> None:
    assert Backoff(LIMITS, now=0).delay_s(_failed(transient=False), now=0) is None


def test_who_says_when_is_not_asked_sooner_even_if_that_is_longer_than_the_longest() -> None:
    assert Backoff(LIMITS, now=0).delay_s(_failed(retry_after_s=60), now=0) == 60
    assert (Backoff(LIMITS, now=0).delay_s(_failed(retry_after_s=0), now=0) or 0) >= 0.5


@pytest.mark.parametrize(("now", "retry_after_s"), [(100.0, None), (0.0, 101.0), (50.0, 51.0)])
def test_who_would_be_asked_too_late_is_not_asked_at_all(now: float, retry_after_s: float | None) -> None:
    backoff = Backoff(LIMITS, now=0)
    assert backoff.delay_s(_failed(retry_after_s=retry_after_s), now=now) is None
    assert backoff.attempt == 1
