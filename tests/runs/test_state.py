"""The tables of the state machine, against a list written by hand, over every pair there is."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest

from runs import state
from vocabulary.messages import MessageStatus, ToolCallState
from vocabulary.runs import LIVE_STATUSES, TERMINAL_STATUSES, RunStatus

ALLOWED = {
    RunStatus: """
        QUEUED -> RUNNING FAILED CANCELLED
        RUNNING -> RUNNING COMPLETED FAILED CANCELLED
    """,
    MessageStatus: """
        QUEUED -> COMPLETED INTERRUPTED
        IN_PROGRESS -> COMPLETED INTERRUPTED FAILED
    """,
    ToolCallState: """
        STREAMING -> PENDING INTERRUPTED
        PENDING -> RUNNING AWAITING_APPROVAL AWAITING_CLIENT COMPLETED FAILED DENIED INTERRUPTED
        RUNNING -> COMPLETED FAILED INTERRUPTED
        AWAITING_APPROVAL -> PENDING COMPLETED FAILED DENIED INTERRUPTED
        AWAITING_CLIENT -> COMPLETED FAILED DENIED INTERRUPTED
    """,
}
TABLES: dict[Any, Mapping[Any, frozenset[Any]]] = {RunStatus: state.RUN, MessageStatus: state.MESSAGE, ToolCallState: state.TOOL_CALL}


def _listed(kind: Any) -> set[tuple[Any, Any]]:
    lines = [line.split(" -> ") for line in ALLOWED[kind].strip().splitlines()]
    return {(kind(old.strip()), kind(new)) for old, news in lines for new in news.split()}


PAIRS = [pytest.param(kind, old, new, id=f"{kind.__name__} {old} {new}") for kind in ALLOWED for old, new in product(kind, repeat=2)]


@pytest.mark.parametrize(("kind", "old", "new"), PAIRS)
def test_exactly_the_listed_transitions_are_made(kind: Any, old: Any, new: Any) -> None:
    if (old, new) in _listed(kind):
        assert state.moved(TABLES[kind], old, new) is new
        return
    with pytest.raises(state.IllegalTransition) as refused:
        state.moved(TABLES[kind], old, new)
    assert (refused.value.old, refused.value.new) == (old, new)


@pytest.mark.parametrize("kind", ALLOWED)
def test_every_state_stands_in_its_table(kind: Any) -> None:
    assert set(TABLES[kind]) == set(kind)


def test_a_run_that_has_ended_stays_as_it_is() -> None:
    assert {status for status, following in state.RUN.items() if not following} == TERMINAL_STATUSES
    assert all(TERMINAL_STATUSES & state.RUN[status] for status in LIVE_STATUSES)
