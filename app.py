"""`python app.py`: the composition root. What the server is made of stands here once, in the order in which it is built and stopped.

Everything is built here and passed down; nothing else reads the environment or keeps an engine of its own.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route, WebSocketRoute
from uvicorn.loops.auto import auto_loop_factory

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
    utc_now,
    worker_limits_of,
)
from resolvers.build import build_schema
from resolvers.context import Limits, RequestContext
from resolvers.viewer import UnusableName, unproven_viewer
from runs.engine import Engine
from runs.workers.dispatch import LocalDispatcher
from runs.workers.jobs import JobDispatcher
from runs.workers.worker import Worker
from settings import Settings
from streams.feed import Feed, FeedLimits
from streams.hub import Hub, HubLimits
from streams.reader import Reader
from transports import explorer
from transports.endpoint import Endpoint
from transports.outcome import Refused
from transports.probes import Probes
from transports.sockets import Sockets
from transports.terms import Terms
from transports.wire import uvicorn_options

VERSION = "0.1.0"
GC_THRESHOLDS = (10_000, 20, 50)  # the defaults collect every few hundred objects, so several times per event and subscriber
DRAIN_S = 0.7
MAX_REQUEST_BYTES = 8 << 20  # a message may be long, and an image may come as a data URI


@dataclass(frozen=True, slots=True, kw_only=True)
class Parley:
    """A running server without its port: the ASGI application, and how to tell all clients that it is about to stop."""

    application: Starlette
    drain: Callable[[], Awaitable[None]]


@asynccontextmanager
async def composed(settings: Settings) -> AsyncGenerator[Parley]:
    """Everything one process is made of, started. On leaving, runs are handed over and the database is closed.

    Beside PostgreSQL runs are others' work (`python -m runs`); beside SQLite a worker of our own does it.
    """
    database = open_database(settings, program="parley server")
    models = models_of(settings)
    try:
        check_default_model(settings, models)
        await prepare_tables(settings, database)
        bus = bus_of(settings)
        dispatcher = JobDispatcher() if settings.distributed else LocalDispatcher()
        metrics = metrics_of(database, bus)
        engine = engine_of(settings, database, bus, models=models, dispatcher=dispatcher, metrics=metrics)
        hub = Hub(database, bus, HubLimits(), metrics)
        reader = Reader(hub, database, max_replay=settings.max_replay, clock=utc_now)
        feed = Feed(database, bus, FeedLimits(), utc_now)
        tool_servers = tool_servers_of(settings, engine.tools)
        async with asyncio.TaskGroup() as machines:
            running = [machines.create_task(machine.run(), name=name) for name, machine in (("bus", bus), ("hub", hub), ("feed", feed))]
            running.append(machines.create_task(tool_servers.run(), name="tool servers"))
            await tool_servers.tried()
            if isinstance(dispatcher, LocalDispatcher):
                worker = Worker(engine, worker_limits_of(settings))
                dispatcher.serve(worker.advance_soon)
                running.append(machines.create_task(worker.run(), name="worker"))
                await worker.ready.wait()
            try:
                yield _parley(settings, engine, reader, feed, Probes(database, bus, metrics))
            finally:
                for machine in running:
                    machine.cancel()
    finally:
        await models.aclose()
        await database.close()


def _parley(settings: Settings, engine: Engine, reader: Reader, feed: Feed, probes: Probes) -> Parley:
    limits = Limits(
        version=VERSION,
        max_page_size=settings.max_page_size,
        max_replay=settings.max_replay,
        delta_retention_s=settings.delta_retention_s,
    )

    async def context_of(connection: HTTPConnection, params: Mapping[str, Any] | None) -> RequestContext:
        try:
            viewer = unproven_viewer(connection.headers, params)
        except UnusableName as error:
            raise Refused("UNAUTHENTICATED", str(error)) from None
        return RequestContext(viewer=viewer, engine=engine, reader=reader, feed=feed, limits=limits)

    terms = Terms(
        schema=build_schema(engine.metrics),
        context_of=context_of,
        allowed_origins=settings.cors_origins,
        max_request_bytes=MAX_REQUEST_BYTES,
        max_operations_per_socket=limits.max_subscriptions_per_connection,
        metrics=engine.metrics,
    )
    sockets = Sockets(terms)
    endpoint = Endpoint(terms, sockets=sockets, page=explorer.page())

    async def drain() -> None:
        probes.drain()
        reader.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await sockets.drain()

    return Parley(application=_application(settings, endpoint, probes), drain=drain)


def _application(settings: Settings, endpoint: Endpoint, probes: Probes) -> Starlette:
    async def home(_request: Request) -> RedirectResponse:
        return RedirectResponse("/graphql")

    routes = [
        Route("/", home),
        Route("/healthz", probes.alive),
        Route("/readyz", probes.ready),
        Route("/metrics", probes.metrics),
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", endpoint),
        Mount("/graphql/assets", explorer.assets()),
    ]
    cors = Middleware(CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    return Starlette(routes=routes, middleware=[cors])


class Server(uvicorn.Server):
    """Drains before it waits: who waits for a run is answered, and every socket is told to come back.

    A signal is a request to stop and no more: uvicorn would raise it once again behind a server that has stopped in good order.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for signal_ in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_, self.handle_exit, signal_, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            sys.stderr.write(f"Parley is at http://{f'[{host}]' if ':' in host else host}:{port}/graphql\n")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        await super().shutdown(sockets)


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Until SIGINT or SIGTERM."""
    async with composed(settings) as parley:
        config = uvicorn.Config(
            parley.application,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            **uvicorn_options(MAX_REQUEST_BYTES),
        )
        # What was made so far stays; collecting it again and again would only add pauses between tokens.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await Server(config, parley.drain).serve(sockets=[listener])


class CannotListen(Exception):
    """The port is taken, or the address is none of this machine's."""


def listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise CannotListen(f"cannot listen on HOST {host}, PORT {port}: {error.strerror}") from None
    return listener


def main() -> None:
    try:
        settings = Settings.from_environment(os.environ)
        log_to_stderr(settings.log_level)
        with listen(settings.host, settings.port) as listener, asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(serve(settings, listener))
    except (CannotListen, *REFUSALS) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
