"""What is told of runs in numbers, once the transaction that changed them has committed."""

from streams.log import Transaction
from telemetry.metrics import Metrics
from vocabulary.runs import Run


def note_start(metrics: Metrics, transaction: Transaction, run: Run) -> None:
    waited = transaction.now - run.created_at
    transaction.after_commit.append(lambda: metrics.run_queue_wait.observe(waited.total_seconds()))


def note_takeover(metrics: Metrics, transaction: Transaction, *, crashed: bool) -> None:
    transaction.after_commit.append(metrics.runs_taken_over.labels("crash" if crashed else "handed_over").inc)


def note_end(metrics: Metrics, transaction: Transaction, run: Run) -> None:
    transaction.after_commit.append(lambda: _ended(metrics, run))


def _ended(metrics: Metrics, run: Run) -> None:
    metrics.runs_ended.labels(run.status, run.stop_reason).inc()
    if run.started_at is not None and run.completed_at is not None:
        metrics.run_duration.labels(run.status).observe((run.completed_at - run.started_at).total_seconds())
    if run.time_to_first_token_ms is not None:
        metrics.first_token.observe(run.time_to_first_token_ms / 1000)
