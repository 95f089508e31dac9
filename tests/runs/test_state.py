"""The tables of the state machine, against a list written by hand, over every pair there is: by themselves, and as rows are moved."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest

from db import messages, runs
from db.engine import Database
from db.heads import Head
from runs import state
from runs.close import Ending, close_run
from runs.writing.records import change_calls, end_messages
from streams.log import Transaction
from tests.db.rows import a_call, a_message, a_run
from tests.rig import Rig, rig
from tests.runs.consistency import Shown, shown
from tests.runs.doubt import Forgetful
from vocabulary.conversations import Conversation
from vocabulary.messages import Message, MessageStatus, MessageType, ToolCallBody, ToolCallState
from vocabulary.runs import LIVE_STATUSES, TERMINAL_STATUSES, Run, RunStatus, StopReason

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


# ---- rows

Move = Callable[[Transaction, Head], Awaitable[object]]


@pytest.fixture
async def idle(database: Database) -> AsyncGenerator[Rig]:
    """Nobody works."""
    async with rig(database, works=False) as parley:
        yield replace(parley, engine=replace(parley.engine, dispatcher=Forgetful()))


async def test_a_stored_run_moves_as_the_table_says_or_nothing_changes(idle: Rig) -> None:
    for old, new in product(RunStatus, repeat=2):
        _, run = await _stored(idle, status=old)
        ending = Ending(status=new, stop_reason=StopReason.ERROR)
        after = await _moved(idle, run, partial(close_run, idle.engine, run=run, ending=ending), (old, new))
        assert after is None or after.runs[0].status is new


async def test_a_stored_message_moves_as_the_table_says_or_nothing_changes(idle: Rig) -> None:
    conversation, run = await _stored(idle)
    for old, new in product(MessageStatus, repeat=2):
        message = await _written(idle, a_message(conversation.id, run_id=run.id, status=old, ordinal=None))
        after = await _moved(idle, run, partial(end_messages, ending=[(message, replace(message, status=new))]), (old, new))
        assert after is None or new in {now.status for now in after.messages if now.id == message.id}


async def test_a_stored_tool_call_moves_as_the_table_says_or_nothing_changes(idle: Rig) -> None:
    conversation, run = await _stored(idle)
    for old, new in product(ToolCallState, repeat=2):
        call = a_call(state=old)
        body = ToolCallBody(tool_calls=(call, a_call()))
        message = await _written(idle, a_message(conversation.id, run_id=run.id, ordinal=None, type=MessageType.TOOL_CALL, body=body))
        change = partial(change_calls, message=message, changed=[replace(call, state=new)], told_by=run.id)
        after = await _moved(idle, run, change, (old, new))
        assert after is None or new in {now.state for now in after.calls if now.id == call.id}


async def _stored(parley: Rig, **fields: Any) -> tuple[Conversation, Run]:
    conversation = await parley.conversation()
    run = a_run(conversation.id, **fields)
    async with parley.database.write() as connection:
        await runs.create(connection, run)
    return conversation, run


async def _written(parley: Rig, message: Message) -> Message:
    async with parley.database.write() as connection:
        await messages.create(connection, [message])
    return message


async def _moved(parley: Rig, run: Run, move: Move, pair: tuple[Any, Any]) -> Shown | None:
    """How all is afterwards; None: it was refused, and all is as it was."""
    before = await shown(parley, run.conversation_id, log=False)
    if pair in _listed(type(pair[0])):
        await _move(parley, run, move)
        return await shown(parley, run.conversation_id, log=False)
    with pytest.raises(state.IllegalTransition):
        await _move(parley, run, move)
    assert await shown(parley, run.conversation_id, log=False) == before
    return None


async def _move(parley: Rig, run: Run, move: Move) -> None:
    async with parley.engine.log.transaction() as transaction:
        head = await transaction.lock(run.conversation_id)
        assert head is not None
        await move(transaction, head)
