"""What the list feed compares itself with: the versions of what changed lately, of the tenants that were asked for."""

from datetime import timedelta

from sqlalchemy import update

from db import conversations
from db.engine import Database
from db.heads import Head, save
from db.tables import conversations as rows
from tests.db.rows import a_conversation, store, store_agent
from tests.rig import utc_now
from vocabulary.lists import ListVersion


async def stored(database: Database, tenant: str, *, seconds_ago: float, version: int, deleted: bool = False) -> str:
    changed = utc_now() - timedelta(seconds=seconds_ago)
    async with database.write() as connection:
        agent = await store_agent(connection)
        conversation = await store(connection, a_conversation(agent.id, tenant=tenant, updated_at=changed))
        await save(connection, Head(conversation_id=conversation.id, list_version=version))
        if deleted:
            await connection.execute(update(rows).where(rows.c.id == conversation.id).values(deleted_at=changed))
    return conversation.id


async def test_only_what_changed_lately_is_read_and_only_of_the_tenants_that_were_asked_for(database: Database) -> None:
    one = await stored(database, "one", seconds_ago=5, version=3)
    gone = await stored(database, "one", seconds_ago=5, version=7, deleted=True)
    two = await stored(database, "two", seconds_ago=50, version=1)
    await stored(database, "two", seconds_ago=70, version=2)
    await stored(database, "three", seconds_ago=5, version=2)
    since = utc_now() - timedelta(seconds=60)
    async with database.read() as connection:
        found = await conversations.list_versions(connection, ["one", "two", "nobody"], since=since)
        assert await conversations.list_versions(connection, [], since=since) == []
    expected = [ListVersion("one", one, 3), ListVersion("one", gone, 7), ListVersion("two", two, 1)]
    assert sorted(found, key=lambda version: version.tenant) == sorted(expected, key=lambda version: (version.tenant, version.version))
