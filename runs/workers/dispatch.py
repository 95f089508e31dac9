"""Dispatch inside one process: a job is a task of the worker beside us, started when the transaction that asks for it has committed."""

from collections.abc import Callable

from streams.log import Transaction


class LocalDispatcher:
    """`serve` joins it to its worker; jobs asked for before that are found by the worker's reconciler at its start."""

    def __init__(self) -> None:
        self._advance: Callable[[str], None] | None = None

    def serve(self, advance: Callable[[str], None]) -> None:
        self._advance = advance

    async def defer(self, transaction: Transaction, conversation_id: str) -> None:
        if self._advance is not None:
            advance = self._advance
            transaction.after_commit.append(lambda: advance(conversation_id))
