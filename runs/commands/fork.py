"""Forking a conversation: what its model would be shown at some message, under new ids, as the beginning of another conversation.

A fork is copied in chunks, each a transaction of its own, into a conversation that nobody is shown; the last transaction reveals it,
and the key of an idempotent request is taken only there. Whoever dies in between leaves rows that the pruner removes. What is copied
is settled in the first transaction by ordinals, which never change, so that whatever happens to the source meanwhile changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from db import agents, blocks, conversations, forks, messages
from db.forks import Stretch
from db.heads import Head
from runs.commands.idempotency import conversation_made_before
from runs.engine import Engine
from runs.heads import ConversationNotFound, locked
from runs.tools.registry import error_return
from streams.log import Transaction
from vocabulary.conversations import Conversation, ConversationStatus
from vocabulary.events import MessageCompleted
from vocabulary.ids import Noun, new_id
from vocabulary.lists import ListChangeKind
from vocabulary.messages import (
    ApprovalResponseBody,
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    SummaryBody,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturnBody,
)

CHUNK = 200
_UNANSWERED = "The conversation was forked before this call was answered."
_SETTLED = frozenset({ToolCallState.COMPLETED, ToolCallState.FAILED, ToolCallState.DENIED, ToolCallState.INTERRUPTED})


class MessageNotFound(Exception):
    def __init__(self, message_id: str) -> None:
        super().__init__(f"There is no message {message_id!r} in this conversation.")
        self.message_id = message_id


class MessageUnfinished(Exception):
    """It is queued or still being written, or never entered history: nothing can end with it."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"The message {message_id!r} is not a finished part of the history.")
        self.message_id = message_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFork:
    """`through_message_id`: the last message to copy; None: the whole context."""

    conversation_id: str
    through_message_id: str | None = None
    idempotency_key: str | None = None
    body_hash: str | None = None


async def fork_conversation(engine: Engine, tenant: str, new: NewFork) -> Conversation:
    """Raises ConversationNotFound, MessageNotFound, MessageUnfinished, IdempotencyConflict; nobody sees anything of it then."""
    async with engine.log.transaction() as transaction:
        head, source = await locked(transaction, tenant, new.conversation_id)
        if found := await conversation_made_before(transaction, source.id, new.idempotency_key, new.body_hash):
            return found
        copy = await _planned(transaction, tenant, head, source, new)
        if copy.is_short:
            await copy.begin(transaction)
            await copy.next_chunk(transaction)
            return await copy.reveal(transaction)
    async with engine.log.transaction() as transaction:  # without the source's lock, which its runs need
        await copy.begin(transaction)
    more = True
    while more:
        async with engine.log.transaction() as transaction:
            more = await copy.next_chunk(transaction)
    async with engine.log.transaction() as transaction:
        await locked(transaction, tenant, new.conversation_id)
        if found := await conversation_made_before(transaction, source.id, new.idempotency_key, new.body_hash):
            return found  # by a concurrent retry; what we have copied is never revealed
        return await copy.reveal(transaction)


async def _planned(transaction: Transaction, tenant: str, head: Head, source: Conversation, new: NewFork) -> "_Copy":
    last = head.next_ordinal - 1
    if new.through_message_id is not None:
        last = await _ordinal(transaction, tenant, source, new.through_message_id)
    summary_id, first = await _cut(transaction, source, last)
    stretch = Stretch(source.id, first, last, tuple(await forks.unfinished(transaction.connection, source.id)))
    calls = await forks.last_calls(transaction.connection, stretch)
    return _Copy(
        new=new,
        source=source,
        summary_id=summary_id,
        rest=stretch,
        fork=replace(source, id=new_id(Noun.CONVERSATION)),
        unanswered=_unanswered(calls),
        open_step=calls[0].step_id if calls else None,
    )


async def _ordinal(transaction: Transaction, tenant: str, source: Conversation, message_id: str) -> int:
    found = await messages.by_ids(transaction.connection, tenant, [message_id])
    if not found or found[0].conversation_id != source.id:
        raise MessageNotFound(message_id)
    if found[0].ordinal is None or found[0].status is MessageStatus.IN_PROGRESS:
        raise MessageUnfinished(message_id)
    return found[0].ordinal


async def _cut(transaction: Transaction, source: Conversation, last: int) -> tuple[str | None, int]:
    """The newest summary of nothing that comes after `last`, and where the tail beside it begins."""
    if source.summary_message_id is not None and source.tail_ordinal <= last + 1:
        return source.summary_message_id, source.tail_ordinal
    if source.summary_message_id is not None:
        for summary in await forks.summaries(transaction.connection, source.id):
            tail = summary.body.tail_ordinal if isinstance(summary.body, SummaryBody) else None
            if tail is not None and tail <= last + 1:
                return summary.id, tail
    return None, 1


@dataclass(slots=True, kw_only=True)
class _Copy:
    """A fork in the making. `rest`: what is still to be copied. `unanswered`: the calls whose returns are not in it, of `open_step`.
    `call_ids`, `step_ids`: new ids by those they stand for.
    """

    new: NewFork
    source: Conversation
    summary_id: str | None
    rest: Stretch
    fork: Conversation
    unanswered: tuple[ToolCall, ...]
    open_step: str | None
    call_ids: dict[str, str] = field(default_factory=dict[str, str])
    step_ids: dict[str, str] = field(default_factory=dict[str, str])
    last_message_at: datetime | None = None

    @property
    def is_short(self) -> bool:
        return self.rest.last - self.rest.first < CHUNK

    async def begin(self, transaction: Transaction) -> None:
        """The conversation, hidden, with its system message and its summary."""
        originals = [id_ for id_ in (self.source.system_message_id, self.summary_id) if id_ is not None]
        found = await forks.by_ids(transaction.connection, originals)
        self.fork = replace(self.fork, tail_ordinal=len(originals) + 1)
        head = await transaction.create_head(self.fork.id)
        copies = {id_: self._copied(head, found[id_]) for id_ in originals}
        await self._create(transaction, {id_: copy.id for id_, copy in copies.items()})
        await self._store(transaction, head, list(copies.values()))

    async def _create(self, transaction: Transaction, new_ids: Mapping[str, str]) -> None:
        self.fork = replace(
            self.fork,
            status=ConversationStatus.IDLE,
            head_sequence=0,
            system_message_id=new_ids.get(self.source.system_message_id or ""),
            summary_message_id=new_ids.get(self.summary_id or ""),
            forked_from_id=self.source.id,
            pending_message_id=None,
            last_message_at=None,
            last_run_completed_at=None,
            created_at=transaction.now,
            updated_at=transaction.now,
        )
        await conversations.create(transaction.connection, self.fork)
        await forks.hide(transaction.connection, self.fork.id, now=transaction.now)

    async def next_chunk(self, transaction: Transaction) -> bool:
        """Whether there is more."""
        head = await self._head(transaction)
        chunk = await forks.stretch(transaction.connection, self.rest, limit=CHUNK)
        await self._store(transaction, head, [self._copied(head, message) for message in chunk])
        if chunk:
            self.last_message_at = chunk[-1].created_at
            self.rest = replace(self.rest, first=(chunk[-1].ordinal or 0) + 1)
        return len(chunk) == CHUNK

    async def reveal(self, transaction: Transaction) -> Conversation:
        head = await self._head(transaction)
        if await agents.lock(transaction.connection, self.source.tenant, self.source.agent_id) is None:
            raise ConversationNotFound(self.source.id)  # deleted meanwhile, and perhaps rid of its conversations already
        if self.unanswered:
            await self._store(transaction, head, [self._answer(transaction, head)])
            self.last_message_at = transaction.now
        own = await blocks.by_conversation(transaction.connection, [self.source.id])
        copies = [replace(block, id=new_id(Noun.BLOCK), conversation_id=self.fork.id, updated_at=transaction.now) for block in own]
        await blocks.create(transaction.connection, copies)
        await forks.reveal(
            transaction.connection,
            self.fork.id,
            scope=self.source.id,
            key=self.new.idempotency_key,
            body_hash=self.new.body_hash,
            last_message_at=self.last_message_at,
            now=transaction.now,
        )
        read = (await conversations.read(transaction.connection, [self.fork.id]))[self.fork.id]
        shown = replace(read, head_sequence=head.head_sequence)
        transaction.list_changed(head, shown, ListChangeKind.CREATED)
        return shown

    async def _head(self, transaction: Transaction) -> Head:
        head = await transaction.lock(self.fork.id)
        if head is None:  # it took so long that it was held for abandoned
            raise ConversationNotFound(self.source.id)
        return head

    async def _store(self, transaction: Transaction, head: Head, stored: Sequence[Message]) -> None:
        await messages.create(transaction.connection, stored)
        for message in stored:
            transaction.append(head, message.sequence, MessageCompleted(message))

    def _copied(self, head: Head, message: Message) -> Message:
        """Without its run, which stays the source's; the messages of a step stay together under a new step's id."""
        return replace(
            message,
            id=new_id(Noun.MESSAGE),
            conversation_id=self.fork.id,
            ordinal=head.take_ordinal(),
            body=self._body(message.body),
            in_context=True,
            run_id=None,
            step_id=self._step_id(message.step_id),
            sequence=head.take_sequence(),
        )

    def _body(self, body: MessageBody) -> MessageBody:
        match body:
            case ToolCallBody(tool_calls=calls):
                return ToolCallBody(tool_calls=tuple(self._call(call) for call in calls))
            case ToolReturnBody(tool_returns=returns):
                return ToolReturnBody(tool_returns=tuple(replace(one, tool_call_id=self._call_id(one.tool_call_id)) for one in returns))
            case ApprovalResponseBody(decisions=decisions):
                return ApprovalResponseBody(
                    decisions=tuple(replace(one, tool_call_id=self._call_id(one.tool_call_id)) for one in decisions)
                )
            case SummaryBody():
                return replace(body, tail_ordinal=self.fork.tail_ordinal)
            case _:
                return body

    def _call(self, call: ToolCall) -> ToolCall:
        """To the provider it has the id that it had."""
        is_open = call.state not in _SETTLED or any(one.id == call.id and one.returned is None for one in self.unanswered)
        state = ToolCallState.INTERRUPTED if is_open else call.state
        return replace(call, id=self._call_id(call.id), state=state, returned=None, provider_call_id=call.provider_call_id or call.id)

    def _call_id(self, call_id: str) -> str:
        return self.call_ids.setdefault(call_id, new_id(Noun.TOOL_CALL))

    def _step_id(self, step_id: str | None) -> str | None:
        return None if step_id is None else self.step_ids.setdefault(step_id, new_id(Noun.STEP))

    def _answer(self, transaction: Transaction, head: Head) -> Message:
        """What a call has returned while others of its step still wait is known."""
        known = [call.returned or error_return(call, _UNANSWERED) for call in self.unanswered]
        returns = tuple(replace(returned, tool_call_id=self._call_id(returned.tool_call_id)) for returned in known)
        return Message(
            id=new_id(Noun.MESSAGE),
            conversation_id=self.fork.id,
            type=MessageType.TOOL_RETURN,
            status=MessageStatus.COMPLETED,
            ordinal=head.take_ordinal(),
            text="",
            body=ToolReturnBody(tool_returns=returns),
            in_tail=True,
            in_context=True,
            group_id=None,
            run_id=None,
            step_id=self._step_id(self.open_step),
            sequence=head.take_sequence(),
            created_at=transaction.now,
        )


def _unanswered(last_calls: Sequence[Message]) -> tuple[ToolCall, ...]:
    """Only the last calls can lack their returns: nothing else is said before those are there."""
    calls = [call for message in last_calls if isinstance(message.body, ToolCallBody) for call in message.body.tool_calls]
    answered = {one.tool_call_id for message in last_calls if isinstance(message.body, ToolReturnBody) for one in message.body.tool_returns}
    return tuple(call for call in calls if call.id not in answered)
