"""The list of instruments, as Prometheus would have it, and that a process's are its own."""

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from telemetry.metrics import Metrics

UNBOUNDED = {"id", "tenant", "conversation", "run", "actor", "agent", "model"}


def families(metrics: Metrics) -> Iterable[Metric]:
    body, media_type = metrics.page("text/plain")
    assert media_type.startswith("text/plain")
    return list(text_string_to_metric_families(body.decode()))


def test_every_instrument_says_what_it_is_in_a_sentence() -> None:
    for family in families(Metrics()):
        assert family.documentation.endswith("."), family.name


def test_names_are_ours_or_of_the_process_and_end_in_their_unit() -> None:
    for family in families(Metrics()):
        assert family.name.startswith(("parley_", "process_")), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_events")), family.name


def test_no_label_grows_with_who_uses_the_server() -> None:
    metrics = Metrics()
    metrics.requests.labels("query", "OK").inc()
    metrics.runs_ended.labels("COMPLETED", "END_TURN").inc()
    metrics.runs_taken_over.labels("crash").inc()
    for family in families(metrics):
        for sample in family.samples:
            assert not UNBOUNDED & sample.labels.keys()


def test_two_processes_do_not_count_together() -> None:
    one, other = Metrics(), Metrics()
    one.events_appended.inc(3)
    assert one.registry.get_sample_value("parley_events_appended_total") == 3
    assert other.registry.get_sample_value("parley_events_appended_total") == 0


def test_what_others_keep_is_asked_for_at_each_scrape() -> None:
    metrics, kept = Metrics(), [1.0]
    metrics.bus_reconnects.set_function(lambda: kept[0])
    assert metrics.registry.get_sample_value("parley_bus_reconnects_total") == 1
    kept[0] = 5
    assert metrics.registry.get_sample_value("parley_bus_reconnects_total") == 5


def test_a_scraper_that_prefers_openmetrics_gets_it() -> None:
    body, media_type = Metrics().page("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
