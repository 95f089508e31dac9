"""What was asked of a run comes back as it was given, on both databases."""

from typing import Any

from sqlalchemy import update

from db import runs
from db.engine import Database
from db.tables import runs as table
from tests.db.rows import a_run, stored_conversation
from vocabulary.runs import ClientTool, Run, RunRequest

ANYTHING: dict[str, Any] = {}
PARAMETERS = {"type": "object", "properties": {"zebra": ANYTHING, "b": ANYTHING, "a": ANYTHING}, "required": ["a"]}
TOOL = ClientTool(name="camera", description="", parameters=PARAMETERS, requires_approval=True)


async def _stored(database: Database) -> Run:
    conversation = await stored_conversation(database)
    run = a_run(conversation.id, request=RunRequest(max_steps=3, client_tools=(TOOL,)))
    async with database.write() as connection:
        await runs.create(connection, run)
    return run


async def test_the_parameters_of_a_tool_keep_the_order_of_their_keys(database: Database) -> None:
    run = await _stored(database)
    async with database.read() as connection:
        (found,) = await runs.by_ids(connection, run.tenant, [run.id])
    assert found == run
    (tool,) = found.request.client_tools
    assert (list(tool.parameters), list(tool.parameters["properties"])) == (list(PARAMETERS), ["zebra", "b", "a"])


async def test_parameters_that_were_stored_as_an_object_are_still_read(database: Database) -> None:
    run = await _stored(database)
    async with database.write() as connection:
        await connection.execute(update(table).where(table.c.id == run.id).values(request=run.request))
    async with database.read() as connection:
        assert await runs.get(connection, run.id) == run
