"""What 2,000 subscribers with nothing to hear ask of PostgreSQL: the statements of a minute, beside those of a server that nobody follows.

Every statement of a server that only reads is a transaction of its own, and PostgreSQL counts transactions. What its own upkeep adds (an
autovacuum worker looks in about once a minute) is in the figures.
"""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
from sqlalchemy import make_url

from bench.client import visiting
from bench.figures import Figure
from bench.ground import Ground
from bench.idle import PER_SOCKET, SUBSCRIBERS, join_all
from bench.server import serving

WINDOW_S = 90.0
SETTLED_S = 35.0  # whatever was asked while they joined, and one check of heads, lies behind us


async def quiet(ground: Ground) -> list[Figure]:
    assert ground.postgres is not None
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(ground.servers())
        server = await stack.enter_async_context(serving(servers.database_url, REDIS_URL=servers.redis_url))
        client = await stack.enter_async_context(visiting(server.url))
        agent_id = await client.agent()
        conversation_ids = [await client.conversation(agent_id) for _ in range(SUBSCRIBERS)]
        nobody = await _per_minute(ground.postgres, servers.database_url)
        await join_all(client, stack, conversation_ids[:PER_SOCKET], PER_SOCKET)
        before = server.resident_kib()
        await join_all(client, stack, conversation_ids, PER_SOCKET)
        each = (server.resident_kib() - before) / SUBSCRIBERS
        followed = await _per_minute(ground.postgres, servers.database_url)
    return [
        Figure("statements, nobody follows", nobody, "/min"),
        Figure(f"statements, {SUBSCRIBERS:,} follow as many conversations", followed, "/min"),
        Figure(f"memory, {PER_SOCKET} on a socket", each, "KiB each"),
    ]


async def _per_minute(server: str, database_url: str) -> float:
    await asyncio.sleep(SETTLED_S)
    before = await _transactions(server, database_url)
    await asyncio.sleep(WINDOW_S)
    return (await _transactions(server, database_url) - before) * 60 / WINDOW_S


async def _transactions(server: str, database_url: str) -> int:
    """Asked from another database, so that asking is not counted."""
    connection = await asyncpg.connect(make_url(server).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
        return await connection.fetchval(query, make_url(database_url).database)
    finally:
        await connection.close()
