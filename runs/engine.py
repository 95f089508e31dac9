"""What every command needs, gathered once by whoever composes the process."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from db.engine import Database
from llm.backoff import RetryLimits
from llm.registry import ModelRegistry
from runs.tools.registry import ToolRegistry
from streams.log import Log, Transaction
from telemetry.metrics import Metrics


class Dispatcher(Protocol):
    """Makes prompt what the run rows say must happen. Lost or doubled jobs are harmless: a job says only "advance conversation X"."""

    async def defer(self, transaction: Transaction, conversation_id: str) -> None:
        """Somebody will advance this conversation once the transaction has committed, and not if it has not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    database: Database
    log: Log
    dispatcher: Dispatcher
    models: ModelRegistry
    tools: ToolRegistry
    clock: Callable[[], datetime]
    default_model: str
    max_attempts: int = 3
    metrics: Metrics = field(default_factory=Metrics)
    retries: RetryLimits = field(default_factory=RetryLimits)
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits so many seconds before a model is asked again."""
