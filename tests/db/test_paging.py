"""Walking pages: whatever comes in meanwhile, every row that was there all along is seen once, in order, and the flags tell the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from db import conversations, messages, runs
from db.conversations import ConversationOrderField
from db.engine import Database
from db.messages import Filter
from db.paging import Key, KeysetOrder, Page, Window
from tests.db.rows import NOON, TENANT, a_conversation, a_message, a_run, store, store_agent, stored_conversation
from tests.db.statements import statements
from vocabulary.conversations import Conversation
from vocabulary.runs import RunStatus

COLUMN_OF = {
    ConversationOrderField.CREATED_AT: "created_at",
    ConversationOrderField.LAST_MESSAGE_AT: "last_message_at",
    ConversationOrderField.LAST_RUN_COMPLETED_AT: "last_run_completed_at",
}

times = st.one_of(st.none(), st.integers(min_value=0, max_value=3).map(lambda minutes: NOON + timedelta(minutes=minutes)))
batches = st.lists(times, max_size=5)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Conversations of one agent in one order, and what the walk should find of them."""

    agent_id: str
    field: ConversationOrderField
    descending: bool
    rows: list[Conversation]

    @property
    def order(self) -> KeysetOrder:
        return conversations.order_by(self.field, descending=self.descending)

    async def add(self, database: Database, values: Sequence[datetime | None]) -> None:
        async with database.write() as connection:
            for value in values:
                # What must be set is set; ids in no order, as if made on many machines.
                time = {COLUMN_OF[self.field]: value or (NOON if self.field is ConversationOrderField.CREATED_AT else None)}
                row = a_conversation(self.agent_id, id=f"conv-{uuid4()}", **time)
                self.rows.append(await store(connection, row))

    async def page(self, database: Database, window: Window) -> Page[Conversation]:
        async with database.read() as connection:
            return await conversations.page(connection, TENANT, conversations.Filter(agent_id=self.agent_id), self.order, window)

    def key(self, row: Conversation) -> Key:
        return getattr(row, COLUMN_OF[self.field]), row.id

    def sorted(self) -> list[str]:
        with_time = sorted((row for row in self.rows if self.key(row)[0]), key=self.key, reverse=self.descending)
        without = sorted((row for row in self.rows if not self.key(row)[0]), key=lambda row: row.id, reverse=self.descending)
        return [row.id for row in with_time + without]


async def shelf(database: Database, field: ConversationOrderField, *, descending: bool) -> Shelf:
    async with database.write() as connection:
        return Shelf((await store_agent(connection)).id, field, descending, [])


def ids(page: Page[Conversation]) -> list[str]:
    return [part.item.id for part in page.slices]


@example(
    field=ConversationOrderField.LAST_MESSAGE_AT, descending=False, forward=False, size=1, at_first=[NOON, NOON, None, None], coming=[]
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(ConversationOrderField),
    descending=st.booleans(),
    forward=st.booleans(),
    size=st.integers(min_value=1, max_value=4),
    at_first=batches,
    coming=st.lists(batches, max_size=4),
)
async def test_a_walk_sees_each_row_once_whatever_is_inserted_meanwhile(
    database: Database,
    field: ConversationOrderField,
    descending: bool,
    forward: bool,
    size: int,
    at_first: list[datetime | None],
    coming: list[list[datetime | None]],
) -> None:
    here = await shelf(database, field, descending=descending)
    await here.add(database, at_first)
    there_throughout, seen = here.sorted(), list[str]()
    cursor: Key | None = None
    more = True
    while more:
        at = {"after": cursor} if forward else {"before": cursor}
        page = await here.page(database, Window(size=size, forward=forward, **at))
        all_rows = here.sorted()
        split = _split(all_rows, cursor, forward=forward)
        expected = all_rows[split : split + size] if forward else all_rows[max(0, split - size) : split]
        assert ids(page) == expected
        assert page.has_next == ((split + size < len(all_rows)) if forward else split < len(all_rows))
        assert page.has_previous == (split > 0 if forward else split - size > 0)
        seen = [*seen, *expected] if forward else [*expected, *seen]
        if page.slices:
            cursor = page.slices[-1 if forward else 0].key
        more = page.has_next if forward else page.has_previous
        if coming:
            await here.add(database, coming.pop())
    assert [id_ for id_ in seen if id_ in there_throughout] == there_throughout
    assert len(set(seen)) == len(seen)


def _split(rows: list[str], cursor: Key | None, *, forward: bool) -> int:
    """How many rows lie before the page (forward), or before its end."""
    if cursor is None:
        return 0 if forward else len(rows)
    return rows.index(cursor[-1]) + forward


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("value", [NOON, None])
@pytest.mark.parametrize("at_first", [[None, None], [NOON, NOON], [NOON, None]])
async def test_a_cursor_whose_row_has_moved_still_divides_the_rows(
    database: Database, at_first: list[datetime | None], value: datetime | None, descending: bool
) -> None:
    """A conversation that is written to takes another place in the order by its last message."""
    here = await shelf(database, ConversationOrderField.LAST_MESSAGE_AT, descending=descending)
    await here.add(database, at_first)
    nobody = (value, "conv-" if descending != (value is None) else "conv-~")
    forward = await here.page(database, Window(size=5, after=nobody))
    backward = await here.page(database, Window(size=5, forward=False, before=nobody))
    assert sorted(ids(forward) + ids(backward)) == sorted(row.id for row in here.rows)
    assert forward.has_previous == bool(backward.slices)
    assert backward.has_next == bool(forward.slices)


async def test_a_page_of_nothing_has_nothing_around_it(database: Database) -> None:
    here = await shelf(database, ConversationOrderField.CREATED_AT, descending=True)
    for forward in (True, False):
        assert await here.page(database, Window(size=3, forward=forward)) == Page((), has_next=False, has_previous=False)


async def test_a_page_of_no_size_says_whether_there_is_something(database: Database) -> None:
    here = await shelf(database, ConversationOrderField.CREATED_AT, descending=True)
    await here.add(database, [NOON])
    assert await here.page(database, Window(size=0)) == Page((), has_next=True, has_previous=False)
    assert await here.page(database, Window(size=0, forward=False)) == Page((), has_next=False, has_previous=True)


# ---- several parents


@pytest.mark.parametrize("forward", [True, False])
async def test_pages_of_many_agents_are_one_statement_and_the_same_as_one_by_one(database: Database, forward: bool) -> None:
    shelves = [await shelf(database, ConversationOrderField.LAST_MESSAGE_AT, descending=True) for _ in range(4)]
    for number, here in enumerate(shelves):
        await here.add(database, [NOON, None, NOON + timedelta(minutes=1), NOON][:number])
    window = Window(size=2, forward=forward)
    async with database.read() as connection:
        with statements() as asked:
            found = await conversations.pages(connection, TENANT, [here.agent_id for here in shelves], shelves[0].order, window)
    assert len(asked) == 1
    assert found == {here.agent_id: await here.page(database, window) for here in shelves}
    assert [len(page.slices) for page in found.values()] == [0, 1, 2, 2]


@pytest.mark.parametrize("forward", [True, False])
async def test_histories_of_many_conversations_are_one_statement(database: Database, forward: bool) -> None:
    stored = [await stored_conversation(database) for _ in range(4)]
    async with database.write() as connection:
        for number, conversation in enumerate(stored):
            history = [a_message(conversation.id, ordinal=o, sequence=o, text=str(o)) for o in range(1, 2 * number + 1)]
            await messages.create(connection, history)
    async with database.read() as connection:
        with statements() as asked:
            found = await messages.pages(connection, [c.id for c in stored], Filter(), Window(size=3, forward=forward))
    assert len(asked) == 1
    texts = [[part.item.text for part in found[conversation.id].slices] for conversation in stored]
    assert texts == [[], ["1", "2"], ["1", "2", "3"] if forward else ["2", "3", "4"], ["1", "2", "3"] if forward else ["4", "5", "6"]]
    assert [page.has_next for page in found.values()] == [False, False, forward, forward]
    assert [page.has_previous for page in found.values()] == [False, False, not forward, not forward]


async def test_the_same_cursor_may_be_asked_of_several_parents(database: Database) -> None:
    stored = [await stored_conversation(database) for _ in range(2)]
    async with database.write() as connection:
        for conversation in stored:
            await messages.create(connection, [a_message(conversation.id, ordinal=o, sequence=o) for o in range(1, 6)])
    async with database.read() as connection:
        found = await messages.pages(connection, [c.id for c in stored], Filter(), Window(size=2, after=(2,)))
    for page in found.values():
        assert [part.item.ordinal for part in page.slices] == [3, 4]
        assert (page.has_next, page.has_previous) == (True, True)


async def test_a_window_between_two_cursors_holds_what_lies_between(database: Database) -> None:
    conversation = await stored_conversation(database)
    async with database.write() as connection:
        await messages.create(connection, [a_message(conversation.id, ordinal=o, sequence=o) for o in range(1, 10)])
    async with database.read() as connection:
        for forward in (True, False):
            window = Window(size=9, forward=forward, after=(3,), before=(7,))
            page = (await messages.pages(connection, [conversation.id], Filter(), window))[conversation.id]
            assert [part.item.ordinal for part in page.slices] == [4, 5, 6]


@pytest.mark.parametrize("forward", [True, False])
async def test_a_page_knows_what_is_around_it_whatever_cursors_it_was_asked_with(database: Database, forward: bool) -> None:
    conversation = await stored_conversation(database)
    async with database.write() as connection:
        await messages.create(connection, [a_message(conversation.id, ordinal=o, sequence=o) for o in range(1, 6)])
    cursors = [None, *((o,) for o in range(1, 6))]
    async with database.read() as connection:
        for size, after, before in product([1, 2, 10], cursors, cursors):
            window = Window(size=size, forward=forward, after=after, before=before)
            with statements() as asked:
                page = (await messages.pages(connection, [conversation.id], Filter(), window))[conversation.id]
            assert len(asked) == 1
            between = [o for o in range(1, 6) if (after is None or o > after[0]) and (before is None or o < before[0])]
            expected = between[:size] if forward else between[-size:]
            assert [part.item.ordinal for part in page.slices] == expected
            around = (expected[0] > 1, expected[-1] < 5) if expected else (after is not None, before is not None)
            assert (page.has_previous, page.has_next) == around, window


async def test_runs_are_paged_by_conversation_and_status(database: Database) -> None:
    conversation = await stored_conversation(database)
    statuses = [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.RUNNING, RunStatus.QUEUED]
    async with database.write() as connection:
        for sequence, status in enumerate(statuses, 1):
            await runs.create(connection, a_run(conversation.id, status=status, created_sequence=sequence))
    async with database.read() as connection:
        for wanted in (None, [RunStatus.QUEUED, RunStatus.FAILED], []):
            page = (await runs.pages(connection, [conversation.id], wanted, Window(size=5)))[conversation.id]
            assert [part.item.status for part in page.slices] == [s for s in statuses if wanted is None or s in wanted]
            assert (await runs.counts(connection, [conversation.id], wanted)).get(conversation.id, 0) == len(page.slices)
