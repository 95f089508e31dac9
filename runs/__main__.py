"""`python -m runs`: a worker. Any number of them, on any machines, beside the same PostgreSQL and Redis; each may die at any time.

SIGTERM or SIGINT: takes nothing new, hands over what it has, and ends with 0, within bounds. Once more: ends at once.
"""

import asyncio
import gc
import os
import signal
import sys
from wsgiref.simple_server import WSGIServer

from uvloop import new_event_loop

from composition import (
    REFUSALS,
    bus_of,
    check_default_model,
    engine_of,
    log_to_stderr,
    metrics_of,
    models_of,
    open_database,
    prepare_tables,
    tool_servers_of,
    worker_limits_of,
)
from db.engine import Database
from db.migrate import in_one_line
from runs.workers.jobs import JobDispatcher, Jobs
from runs.workers.worker import Worker
from settings import Settings, SettingsError
from telemetry.metrics import Metrics

LONGEST_DRAIN_S = 8.0  # less than the ten seconds that containers are given


async def work(settings: Settings) -> None:
    """Until a signal comes. What refuses to start while others run already is raised in a group."""
    if not settings.distributed:
        raise SettingsError("DATABASE_URL: expected PostgreSQL; beside SQLite the server does the workers' work itself")
    leaving = _leaving()
    database = open_database(settings, program="parley worker")
    models = models_of(settings)
    try:
        check_default_model(settings, models)
        await prepare_tables(settings, database)
        bus = bus_of(settings)
        metrics = metrics_of(database, bus)
        engine = engine_of(settings, database, bus, models=models, dispatcher=JobDispatcher(), metrics=metrics)
        worker = Worker(engine, worker_limits_of(settings))
        tool_servers = tool_servers_of(settings, engine.tools)
        jobs = Jobs(database, worker, concurrency=settings.worker_concurrency)
        telling = None if settings.metrics_port is None else _tell(metrics, settings.metrics_host, settings.metrics_port)
        async with asyncio.TaskGroup() as machines:
            announcing = machines.create_task(bus.run(), name="bus")
            offering = machines.create_task(tool_servers.run(), name="tool servers")
            await tool_servers.tried()
            working = machines.create_task(_run(worker, database), name="worker")
            await worker.ready.wait()
            taking = machines.create_task(jobs.run(), name="jobs")
            gc.collect()
            gc.freeze()
            sys.stderr.write(f"Working as {worker.id}\n")
            await leaving.wait()
            taking.cancel()
            working.cancel()
            await asyncio.wait({taking, working})
            offering.cancel()
            announcing.cancel()
        if telling is not None:
            telling.shutdown()
    finally:
        await models.aclose()
        await database.close()


async def _run(worker: Worker, database: Database) -> None:
    """Raises DatabaseUnusable when the worker cannot even be registered; later it waits for a database that is away."""
    with in_one_line(database):
        await worker.run()


def _tell(metrics: Metrics, host: str, port: int) -> WSGIServer:
    """A worker has no port of its own; this one is for whoever scrapes it."""
    try:
        return metrics.serve(host, port)
    except OSError as error:
        raise SettingsError(f"METRICS_PORT: cannot listen on METRICS_HOST {host}, METRICS_PORT {port}: {error.strerror}") from None


def _leaving() -> asyncio.Event:
    """Set by the first signal. The drain is not waited for for ever: what could not be handed over is found by its lease."""
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(number: int) -> None:
        if leaving.is_set():
            os._exit(128 + number)
        leaving.set()
        loop.call_later(LONGEST_DRAIN_S, os._exit, 0)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard, number)
    return leaving


def main() -> None:
    refusals = list[Exception]()
    try:
        settings = Settings.from_environment(os.environ)
        log_to_stderr(settings.log_level)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(work(settings))
    except* REFUSALS as errors:
        refusals.extend(errors.exceptions)
    if refusals:
        sys.exit(str(refusals[0]))


if __name__ == "__main__":
    main()
