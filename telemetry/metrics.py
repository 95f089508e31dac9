"""What a process tells about itself: every instrument with its name, unit and help, in one list. Nothing else knows Prometheus.

A new one goes into the list; whoever knows the fact is given `Metrics` and notes it there: per command, batch or event of a process,
never per token or per subscriber. What a part knows anyway (how many topics, whether the bus is there) is not noted, but asked for at
each scrape (`set_function`). Labels are of closed sets: no ids, no tenants, nothing that a client can make up.
"""

from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_QUICK_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 30)
_SLOW_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class KeptElsewhere(Collector):
    """A counter that somebody else keeps, and is asked for."""

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._read: Callable[[], float] = float
        registry.register(self)

    def set_function(self, read: Callable[[], float]) -> None:
        self._read = read

    def describe(self) -> Iterable[CounterMetricFamily]:
        return [CounterMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[CounterMetricFamily]:
        return [CounterMetricFamily(self._name, self._documentation, value=self._read())]


class Metrics:
    """Of one process, in a registry of its own. Noting never fails and never waits."""

    def __init__(self) -> None:
        mine = self.registry = CollectorRegistry()
        ProcessCollector(registry=mine)

        # ---- runs
        self.runs_ended = Counter("parley_runs_ended", "Runs that have ended here, by outcome.", ["status", "stop_reason"], registry=mine)
        self.run_queue_wait = Histogram(
            "parley_run_queue_wait_seconds", "From sending a message to the start of its run.", buckets=_SLOW_S, registry=mine
        )
        self.run_duration = Histogram(
            "parley_run_duration_seconds", "From the start of a run to its end, by outcome.", ["status"], buckets=_SLOW_S, registry=mine
        )
        self.first_token = Histogram(
            "parley_run_first_token_seconds", "From the start of a run to the first token of its model.", buckets=_SLOW_S, registry=mine
        )
        self.jobs_taken = Counter("parley_jobs_taken", "Jobs to advance a conversation that this worker has taken.", registry=mine)
        self.runs_taken_over = Counter(
            "parley_runs_taken_over",
            "Leases on running runs that were taken over, from a worker that was lost (crash) or that let go (handed_over).",
            ["cause"],
            registry=mine,
        )

        # ---- the log
        self.events_appended = Counter("parley_events_appended", "Events committed to the log by this process.", registry=mine)
        self.batch_events = Histogram("parley_batch_events", "Events in one batch of the worker's writer.", buckets=_SIZES, registry=mine)
        self.batch_commit = Histogram(
            "parley_batch_commit_seconds", "From beginning a batch to the answer to its commit.", buckets=_QUICK_S, registry=mine
        )

        # ---- announcements
        self.bus_attached = Gauge("parley_bus_attached", "1 while announcements travel, 0 while the bus is away.", registry=mine)
        self.bus_reconnects = KeptElsewhere("parley_bus_reconnects", "Lines to the bus that were made again.", registry=mine)
        self.announcements_published = KeptElsewhere("parley_announcements_published", "Announcements handed to the bus.", registry=mine)
        self.announcements_received = KeptElsewhere("parley_announcements_received", "Announcements heard from the bus.", registry=mine)
        self.announcements_dropped = KeptElsewhere(
            "parley_announcements_dropped",
            "Announcements given up while the bus was away; who listens finds them in the log.",
            registry=mine,
        )

        # ---- delivery
        self.topics = Gauge("parley_topics", "Conversations that this process follows.", registry=mine)
        self.subscribers = Gauge("parley_subscribers", "Subscriptions to conversations and runs.", registry=mine)
        self.topics_in_doubt = Gauge("parley_topics_in_doubt", "Topics that may have missed something, until compared.", registry=mine)
        self.topics_doubted = Counter("parley_topics_doubted", "Times that a topic may have missed announcements.", registry=mine)
        self.delivery = Histogram(
            "parley_delivery_seconds",
            "From the begin of the transaction that wrote an event to its arrival here, once per event, with the clocks of both machines.",
            buckets=_QUICK_S,
            registry=mine,
        )
        self.head_checks = Counter("parley_head_checks", "Queries that compare all quiet, or all doubted, topics.", registry=mine)
        self.log_refills = Counter("parley_log_refills", "Reads of the log for what announcements had left out.", registry=mine)
        self.stream_resets = Counter("parley_stream_resets", "Subscribers told that they must start over.", ["reason"], registry=mine)

        # ---- requests
        self.sockets = Gauge("parley_sockets", "WebSockets that are open.", registry=mine)
        self.requests = Counter(
            "parley_requests",
            "GraphQL operations that have ended, by kind (none: never read that far) and by the code of the first error, or OK.",
            ["operation", "code"],
            registry=mine,
        )

        # ---- the database
        self.connections_in_use = Gauge(
            "parley_database_connections_in_use", "Connections taken out of the pool, by what they do.", ["pool"], registry=mine
        )
        self.connections_limit = Gauge(
            "parley_database_connections_limit", "Connections that the pool may have, by what they do.", ["pool"], registry=mine
        )

    def page(self, accept: str) -> tuple[bytes, str]:
        """What a scrape is answered, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def serve(self, host: str, port: int) -> WSGIServer:
        """For a program without an HTTP port of its own: from a thread, until `shutdown()`. Raises OSError when the port cannot be had."""
        server, _ = start_http_server(port, host, registry=self.registry)
        return server
