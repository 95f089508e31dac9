"""Every operation that reaches the schema, counted once when it has ended, by its kind and by what became of it."""

from collections.abc import Iterator

from strawberry.extensions import SchemaExtension

from telemetry.metrics import Metrics


class CountedRequests(SchemaExtension):
    """One for each operation. A subscription counts when it is over, however it ended."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def on_operation(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._metrics.requests.labels(self._kind(), self._code()).inc()

    def _kind(self) -> str:
        try:
            return self.execution_context.operation_type.value
        except RuntimeError:  # it could not be parsed, or names an operation that is not in it
            return "none"

    def _code(self) -> str:
        result = self.execution_context.result
        errors = (self.execution_context.pre_execution_errors or None) or (result.errors if result is not None else None)
        return str((errors[0].extensions or {}).get("code", "BAD_USER_INPUT")) if errors else "OK"
