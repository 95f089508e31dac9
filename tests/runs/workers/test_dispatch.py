"""The local dispatcher: a job begins when the transaction that asks for it has committed, and not when it has not."""

import pytest

from db.engine import Database
from runs.workers.dispatch import LocalDispatcher
from streams.bus import MemoryBus
from streams.log import Log
from tests.rig import utc_now


async def test_a_job_begins_after_the_commit(database: Database) -> None:
    advanced, dispatcher = list[str](), LocalDispatcher()
    dispatcher.serve(advanced.append)
    async with Log(database, MemoryBus(), utc_now).transaction() as transaction:
        await dispatcher.defer(transaction, "conv-1")
        assert advanced == []
    assert advanced == ["conv-1"]


async def test_what_was_not_committed_asks_for_nothing(database: Database) -> None:
    advanced, dispatcher = list[str](), LocalDispatcher()
    dispatcher.serve(advanced.append)

    async def command() -> None:
        async with Log(database, MemoryBus(), utc_now).transaction() as transaction:
            await dispatcher.defer(transaction, "conv-1")
            raise KeyError

    with pytest.raises(KeyError):
        await command()
    assert advanced == []


async def test_before_there_is_a_worker_a_job_is_left_to_its_start(database: Database) -> None:
    async with Log(database, MemoryBus(), utc_now).transaction() as transaction:
        await LocalDispatcher().defer(transaction, "conv-1")
        assert transaction.after_commit == []
