"""Dispatch among any number of processes: jobs "advance conversation X" in PostgreSQL, deferred with what they follow from.

Procrastinate carries them: whoever writes calls its SQL function in the transaction itself, and its worker hands them to ours. The
run rows stay the truth. A job that is lost costs the reconcilers' delay, one too many finds nothing to do.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import structlog
from procrastinate import App
from procrastinate.jobs import DeleteJobCondition, Job
from procrastinate.manager import JobManager

from db import jobs
from db.engine import Database
from db.jobs import ADVANCE, QUEUE, JobsError
from streams.log import Transaction

log = structlog.get_logger()

_RESTART_S = 1.0
_SILENT_S = 120.0
_REMOVED_AT_ONCE = 1000


class JobDispatcher:
    async def defer(self, transaction: Transaction, conversation_id: str) -> None:
        await jobs.defer(transaction.connection, conversation_id)


class Advances(Protocol):
    async def advance(self, conversation_id: str) -> None:
        """Returns when nothing more comes of it. Cancelling the caller does not stop the run: it is the worker's."""
        ...


class Jobs:
    """Takes jobs for a worker, `concurrency` of them at a time, each as long as its run. Run `run()` until cancelled."""

    def __init__(self, database: Database, worker: Advances, *, concurrency: int) -> None:
        self._database = database
        self._worker = worker
        self._concurrency = concurrency

    async def run(self) -> None:
        """Starts again whatever a database that was away has broken; the runs that go on meanwhile are not touched."""
        while True:
            try:
                app = self._app()
                async with app.open_async():
                    await app.run_worker_async(
                        queues=[QUEUE],
                        concurrency=self._concurrency,
                        delete_jobs=DeleteJobCondition.ALWAYS,
                        install_signal_handlers=False,
                        shutdown_graceful_timeout=_RESTART_S,
                    )
            except JobsError as error:
                log.warning("jobs cannot be taken; trying again", error=str(error))
            # The worker may take a cancellation for its sign to stop, and keep it to itself.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            await asyncio.sleep(_RESTART_S * random.uniform(0.5, 1.5))

    def _app(self) -> App:
        app = App(connector=jobs.connector(self._database.url))
        app.job_manager = AttentiveManager(app.connector)
        app.task(name=ADVANCE, queue=QUEUE)(self._worker.advance)

        # Procrastinate watches over the tasks of its worker only while it has something periodic to do.
        @app.periodic(cron="*/5 * * * *")
        @app.task(name="remove abandoned jobs", queue=QUEUE, queueing_lock="remove abandoned jobs")
        async def remove_abandoned(timestamp: int) -> None:  # noqa: ARG001
            await self._remove_abandoned()

        return app

    async def _remove_abandoned(self) -> None:
        removed = _REMOVED_AT_ONCE
        while removed == _REMOVED_AT_ONCE:
            async with self._database.write() as connection:
                removed = await jobs.remove_abandoned(connection, silent_s=_SILENT_S, limit=_REMOVED_AT_ONCE)


class AttentiveManager(JobManager):
    """Looks again when a job was announced while it looked: the worker forgets announcements that come before it has its answer,
    and would find such a job only with its next poll, seconds later.
    """

    _heard = 0

    async def listen_for_jobs(self, *, on_notification: Callable[..., Awaitable[None]], queues: Iterable[str] | None = None) -> None:
        async def heard(**notification: Any) -> None:
            self._heard += 1
            await on_notification(**notification)

        await super().listen_for_jobs(on_notification=heard, queues=queues)

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        while True:
            heard = self._heard
            job = await super().fetch_job(queues=queues, worker_id=worker_id)
            if job is not None or heard == self._heard:
                return job
