"""A run that somebody asked for: its row, its place in the queue, and what its conversation's followers are told of it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from db import runs
from db.heads import Head
from runs.engine import Engine
from runs.heads import announce_conversation
from streams.log import Transaction
from vocabulary.conversations import Conversation
from vocabulary.events import RunChanged
from vocabulary.ids import Noun, new_id
from vocabulary.runs import Run, RunKind, RunRequest, RunStatus, Usage


def new_run(
    conversation: Conversation,
    kind: RunKind,
    model: str,
    request: RunRequest,
    *,
    now: datetime,
    group_id: str | None = None,
    idempotency_key: str | None,
    body_hash: str | None,
) -> Run:
    """Not queued yet. `model`: the handle of the one that is asked first."""
    return Run(
        id=new_id(Noun.RUN),
        tenant=conversation.tenant,
        conversation_id=conversation.id,
        kind=kind,
        status=RunStatus.QUEUED,
        stop_reason=None,
        error=None,
        model=model,
        request=request,
        usage=Usage(),
        group_id=group_id,
        idempotency_key=idempotency_key,
        body_hash=body_hash if idempotency_key else None,
        applied_through_sequence=0,
        created_sequence=0,
        sequence=0,
        worker_id=None,
        attempt=1,
        created_at=now,
        started_at=None,
        completed_at=None,
        time_to_first_token_ms=None,
    )


async def queue(
    engine: Engine, transaction: Transaction, head: Head, run: Run, times: Mapping[str, datetime], *, first_sequence: int | None = None
) -> Run:
    """The last numbers of a command: the run's, then the conversation's, whose `times` change. `first_sequence`: the command's first, if
    it has written something before.
    """
    sequence, last = head.take_sequence(), head.take_sequence()
    run = replace(run, created_sequence=first_sequence or sequence, sequence=sequence, applied_through_sequence=last)
    await runs.create(transaction.connection, run)
    transaction.append(head, sequence, RunChanged(run, run.status, None), run_id=run.id)
    await announce_conversation(transaction, head, last, times)
    await engine.dispatcher.defer(transaction, head.conversation_id)
    return run
