"""What the programs (`app.py`, `python -m runs`) are composed of, made from the settings in one way for both.

Nothing is started here and nothing kept: each program starts, stops and closes what it asked for.
"""

import logging
import sys
from datetime import UTC, datetime

import structlog

from db.engine import Database, DatabaseInUse, DatabaseUnusable, PostgresLimits
from db.migrate import DatabaseTooNew, DatabaseTooOld, require_current, upgrade
from llm.backoff import RetryLimits
from llm.endpoints import CompatibleServer, ServedModel, Timeouts
from llm.registry import ModelNotFound, ModelRegistry
from runs.engine import Dispatcher, Engine
from runs.tools.builtin.clock import current_time
from runs.tools.builtin.memory import memory_tools
from runs.tools.builtin.search import conversation_search
from runs.tools.mcp.endpoints import Address, McpServer, Program
from runs.tools.mcp.servers import McpServers
from runs.tools.registry import ToolRegistry
from runs.workers.worker import WorkerLimits
from settings import Settings, SettingsError, ToolServer
from streams.bus import Bus, MemoryBus
from streams.log import Log
from streams.redis_bus import RedisBus
from telemetry.logs import name_wordless_error
from telemetry.metrics import Metrics

REFUSALS = (SettingsError, DatabaseInUse, DatabaseUnusable, DatabaseTooNew, DatabaseTooOld)
"""Why a program may refuse to start, each in one line."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def open_database(settings: Settings, *, program: str) -> Database:
    """Raises DatabaseInUse, DatabaseUnusable."""
    limits = PostgresLimits(
        pool_size=settings.database_pool_size,
        lock_s=settings.lock_timeout_s,
        idle_in_transaction_s=settings.idle_transaction_timeout_s,
        statement_s=settings.statement_timeout_s,
        program=program,
    )
    return Database.open(settings.database_url, postgres=limits)


async def prepare_tables(settings: Settings, database: Database) -> None:
    """Who owns the database migrates it; who shares it asks only whether somebody has.

    Raises DatabaseTooNew, DatabaseTooOld, DatabaseUnusable.
    """
    await (require_current(database) if settings.distributed else upgrade(database))


def bus_of(settings: Settings) -> Bus:
    if settings.redis_url is None:
        return MemoryBus()
    return RedisBus(settings.redis_url, cluster=settings.redis_cluster, prefix=settings.redis_prefix)


def models_of(settings: Settings) -> ModelRegistry:
    keys = {"openai": settings.openai_api_key, "anthropic": settings.anthropic_api_key, "google": settings.google_api_key}
    servers = {
        name: CompatibleServer(
            base_url=provider.base_url,
            api_key=provider.api_key.get_secret_value() if provider.api_key else None,
            models={model: ServedModel(context_window=told.context_window) for model, told in provider.models.items()},
        )
        for name, provider in settings.providers.items()
    }
    return ModelRegistry(
        api_keys={provider: key.get_secret_value() for provider, key in keys.items() if key is not None},
        servers=servers,
        demo_delay_ms=settings.demo_delay_ms,
        timeouts=Timeouts(first_token_s=settings.model_first_token_timeout_s, idle_s=settings.model_idle_timeout_s),
    )


def check_default_model(settings: Settings, models: ModelRegistry) -> None:
    """Raises SettingsError."""
    try:
        models.resolve(settings.default_model)
    except ModelNotFound as error:
        raise SettingsError(f"DEFAULT_MODEL: {error}") from None


def metrics_of(database: Database, bus: Bus) -> Metrics:
    """Every program's, with what its database and its bus know of themselves."""
    metrics = Metrics()
    metrics.bus_attached.set_function(lambda: bus.status().connected)
    metrics.bus_reconnects.set_function(lambda: bus.status().reconnects)
    metrics.announcements_published.set_function(lambda: bus.status().published)
    metrics.announcements_received.set_function(lambda: bus.status().received)
    metrics.announcements_dropped.set_function(lambda: bus.status().dropped)
    for name, pool in database.pools().items():
        metrics.connections_in_use.labels(name).set_function(pool.checkedout)
        metrics.connections_limit.labels(name).set_function(pool.size)
    return metrics


def engine_of(  # one argument for each part that is swapped between deployments
    settings: Settings, database: Database, bus: Bus, *, models: ModelRegistry, dispatcher: Dispatcher, metrics: Metrics
) -> Engine:
    return Engine(
        database=database,
        log=Log(database, bus, utc_now, metrics),
        dispatcher=dispatcher,
        models=models,
        tools=ToolRegistry([current_time(utc_now), conversation_search(), *memory_tools()]),
        clock=utc_now,
        default_model=settings.default_model,
        max_attempts=settings.max_attempts,
        metrics=metrics,
        retries=RetryLimits(retries=settings.model_retries),
    )


def tool_servers_of(settings: Settings, tools: ToolRegistry) -> McpServers:
    servers = (
        McpServer(name=name, reached=_reached(server), requires_approval=server.requires_approval, timeout_s=server.timeout_s)
        for name, server in settings.mcp_servers.items()
    )
    return McpServers(servers, tools)


def _reached(server: ToolServer) -> Program | Address:
    if server.url is not None:
        return Address(url=server.url, headers={name: value.get_secret_value() for name, value in server.headers.items()})
    assert server.command is not None, "the settings hold one or the other"
    return Program(command=server.command, args=server.args, env={name: value.get_secret_value() for name, value in server.env.items()})


def worker_limits_of(settings: Settings) -> WorkerLimits:
    """Of the only worker beside SQLite, or of one among any number."""
    if settings.distributed:
        return WorkerLimits(
            sole=False,
            concurrency=settings.worker_concurrency,
            lease_s=settings.lease_s,
            delta_retention_s=settings.delta_retention_s,
            approval_expiry_s=settings.approval_expiry_s,
            hand_over_s=5.0,
        )
    return WorkerLimits(
        sole=True, reconcile_s=5.0, delta_retention_s=settings.delta_retention_s, approval_expiry_s=settings.approval_expiry_s
    )


def log_to_stderr(level: str) -> None:
    """Ours at the level that was asked for; the libraries' only when something is wrong. No values of variables in tracebacks."""
    logging.basicConfig(level=max(logging.getLevelNamesMapping()[level], logging.WARNING), format="%(name)s: %(message)s")
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)  # of a database that is away `runs.workers.jobs` tells in one line
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            name_wordless_error,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
