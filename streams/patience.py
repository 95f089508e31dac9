"""Waiting for a database that is away: that delays a stream, or a run, where an error would end it for good."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from db.engine import DatabaseError, is_refusal

log = structlog.get_logger()

T = TypeVar("T")


async def patiently(ask: Callable[[], Awaitable[T]], *, every_s: float) -> T:
    """The answer, however long the database is away. Asked again about every `every_s`. What it refuses now as ever is raised."""
    told = False
    while True:
        try:
            return await ask()
        except DatabaseError as error:
            if is_refusal(error):
                raise
            if not told:
                log.warning("waiting for the database", error=str(error))
            told = True
        await asyncio.sleep(every_s * random.uniform(0.8, 1.2))
