"""One loader per noun, relation and operation: what is asked for in one breath is read in one statement.

So the number of statements depends on the shape of a query, never on how many things it finds. What is loaded stays loaded until
the operation says that time has passed: between mutations, and between the events of a subscription.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Generic, Protocol, TypeVar

from strawberry.dataloader import DataLoader

from db import agents, blocks, conversations, messages, runs
from db.engine import AsyncConnection, Database
from db.messages import Filter
from db.paging import KeysetOrder, Page, Window
from vocabulary.conversations import Agent, Block, Conversation
from vocabulary.messages import Message
from vocabulary.runs import Run, RunStatus, Step

_MOST_IDS = 1000  # in one statement; SQLite takes some 32,000 parameters


class Identified(Protocol):
    @property
    def id(self) -> str: ...


A = TypeVar("A", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")
I = TypeVar("I", bound=Identified)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Of(Generic[A]):
    """Something of a parent, asked for with some arguments.

    `as_of` is the position at which the parent was read: children that were loaded for an older one are not good enough.
    """

    parent: str
    arguments: A
    as_of: int = 0


@dataclass(frozen=True, slots=True)
class MessagesAsked:
    only: Filter
    window: Window


@dataclass(frozen=True, slots=True)
class RunsAsked:
    statuses: frozenset[RunStatus] | None
    window: Window


@dataclass(frozen=True, slots=True)
class ConversationsAsked:
    order: KeysetOrder
    window: Window


class Patience(Protocol):
    """What is done about a database that is away: asking again, or not."""

    async def __call__(self, ask: Callable[[], Awaitable[T]], /) -> T: ...


async def at_once(ask: Callable[[], Awaitable[T]]) -> T:
    """For who can ask again: the error is the answer."""
    return await ask()


class Loaders:
    def __init__(self, database: Database, tenant: str, patience: Patience = at_once) -> None:
        self._database = database
        self._tenant = tenant
        self._patience = patience

    # ---- by id

    @cached_property
    def agents(self) -> DataLoader[str, Agent | None]:
        return self._by_id(agents.by_ids)

    @cached_property
    def blocks(self) -> DataLoader[str, Block | None]:
        return self._by_id(agents.blocks_by_ids)

    @cached_property
    def conversations(self) -> DataLoader[str, Conversation | None]:
        return self._by_id(conversations.by_ids)

    @cached_property
    def messages(self) -> DataLoader[str, Message | None]:
        return self._by_id(messages.by_ids)

    @cached_property
    def runs(self) -> DataLoader[str, Run | None]:
        return self._by_id(runs.by_ids)

    @cached_property
    def agents_ever(self) -> DataLoader[str, Agent | None]:
        return self._by_id(agents.ever_by_ids)

    @cached_property
    def conversations_ever(self) -> DataLoader[str, Conversation | None]:
        return self._by_id(conversations.ever_by_ids)

    # ---- by parent

    @cached_property
    def blocks_of_agent(self) -> DataLoader[Of[None], list[Block]]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, list[Block]]:
            return _grouped(await agents.blocks_by_agent(connection, ids), lambda block: block.agent_id)

        return self._by_parent(read, list)

    @cached_property
    def isolated_blocks(self) -> DataLoader[Of[None], list[Block]]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, list[Block]]:
            return _grouped(await blocks.by_conversation(connection, ids), lambda block: block.conversation_id or "")

        return self._by_parent(read, list)

    @cached_property
    def steps_of_run(self) -> DataLoader[Of[None], list[Step]]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, list[Step]]:
            return _grouped(await runs.steps_of(connection, ids), lambda step: step.run_id)

        return self._by_parent(read, list)

    @cached_property
    def live_runs(self) -> DataLoader[Of[None], list[Run]]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, list[Run]]:
            return await runs.live(connection, ids)

        return self._by_parent(read, list)

    @cached_property
    def contexts(self) -> DataLoader[Of[None], list[Message]]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, list[Message]]:
            return await messages.contexts(connection, ids)

        return self._by_parent(read, list)

    @cached_property
    def last_counted_steps(self) -> DataLoader[Of[None], Step | None]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, Step | None]:
            return await runs.last_counted(connection, ids)

        return self._by_parent(read, _nothing)

    # ---- pages by parent

    @cached_property
    def history(self) -> DataLoader[Of[MessagesAsked], Page[Message]]:
        async def read(connection: AsyncConnection, ids: list[str], asked: MessagesAsked) -> Mapping[str, Page[Message]]:
            return await messages.pages(connection, ids, asked.only, asked.window)

        return self._by_parent(read, _no_page)

    @cached_property
    def messages_of_run(self) -> DataLoader[Of[Window], Page[Message]]:
        return self._by_parent(messages.run_pages, _no_page)

    @cached_property
    def runs_of_conversation(self) -> DataLoader[Of[RunsAsked], Page[Run]]:
        async def read(connection: AsyncConnection, ids: list[str], asked: RunsAsked) -> Mapping[str, Page[Run]]:
            return await runs.pages(connection, ids, asked.statuses, asked.window)

        return self._by_parent(read, _no_page)

    @cached_property
    def conversations_of_agent(self) -> DataLoader[Of[ConversationsAsked], Page[Conversation]]:
        async def read(connection: AsyncConnection, ids: list[str], asked: ConversationsAsked) -> Mapping[str, Page[Conversation]]:
            return await conversations.pages(connection, self._tenant, ids, asked.order, asked.window)

        return self._by_parent(read, _no_page)

    # ---- counts by parent

    @cached_property
    def history_counts(self) -> DataLoader[Of[Filter], int]:
        return self._by_parent(messages.counts, int)

    @cached_property
    def run_message_counts(self) -> DataLoader[Of[None], int]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, int]:
            return await messages.run_counts(connection, ids)

        return self._by_parent(read, int)

    @cached_property
    def run_counts(self) -> DataLoader[Of[frozenset[RunStatus] | None], int]:
        return self._by_parent(runs.counts, int)

    @cached_property
    def conversation_counts(self) -> DataLoader[Of[None], int]:
        async def read(connection: AsyncConnection, ids: list[str], _: None) -> Mapping[str, int]:
            return await conversations.counts(connection, self._tenant, ids)

        return self._by_parent(read, int)

    # ---- the two kinds of loader

    def _by_id(self, read: Callable[[AsyncConnection, str, Iterable[str]], Awaitable[list[I]]]) -> DataLoader[str, I | None]:
        """None: there is no such thing, or it is not the viewer's."""

        async def rows(ids: list[str]) -> list[I]:
            async with self._database.read() as connection:
                return await read(connection, self._tenant, ids)

        async def load(ids: list[str]) -> list[I | None]:
            found = {row.id: row for row in await self._patience(lambda: rows(ids))}
            return [found.get(id_) for id_ in ids]

        return DataLoader(load, max_batch_size=_MOST_IDS)

    def _by_parent(
        self, read: Callable[[AsyncConnection, list[str], A], Awaitable[Mapping[str, R]]], default: Callable[[], R]
    ) -> DataLoader[Of[A], R]:
        """Parents that are asked with equal arguments share a statement."""

        async def answers(asked: list[Of[A]], arguments: A) -> Mapping[str, R]:
            parents = list(dict.fromkeys(key.parent for key in asked))
            async with self._database.read() as connection:
                return await read(connection, parents, arguments)

        async def load(keys: list[Of[A]]) -> list[R]:
            found: dict[tuple[str, A], R] = {}
            for arguments, asked in _grouped(keys, lambda key: key.arguments).items():
                answered = await self._patience(partial(answers, asked, arguments))
                found |= {(parent, arguments): answer for parent, answer in answered.items()}
            return [found[key.parent, key.arguments] if (key.parent, key.arguments) in found else default() for key in keys]

        return DataLoader(load, max_batch_size=_MOST_IDS)


def _grouped(things: Iterable[R], by: Callable[[R], A]) -> dict[A, list[R]]:
    groups: dict[A, list[R]] = {}
    for thing in things:
        groups.setdefault(by(thing), []).append(thing)
    return groups


def _nothing() -> None:
    return None


def _no_page() -> Page[Any]:
    return Page((), has_next=False, has_previous=False)
