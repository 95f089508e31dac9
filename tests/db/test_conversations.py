"""The list of conversations: what a search in their summaries finds."""

import pytest

from db import conversations
from db.conversations import ConversationOrderField, Filter
from db.engine import Database
from db.paging import Window
from tests.db.rows import TENANT, a_conversation, store, store_agent
from vocabulary.conversations import Conversation

NEWEST = conversations.order_by(ConversationOrderField.CREATED_AT, descending=True)


async def _titled(database: Database, *summaries: str | None) -> list[Conversation]:
    async with database.write() as connection:
        agent = await store_agent(connection)
        return [await store(connection, a_conversation(agent.id, summary=summary)) for summary in summaries]


async def _found(database: Database, needle: str) -> set[str | None]:
    async with database.read() as connection:
        page = await conversations.page(connection, TENANT, Filter(summary_contains=needle), NEWEST, Window(size=100))
        assert await conversations.count(connection, TENANT, Filter(summary_contains=needle)) == len(page.slices)
    return {piece.item.summary for piece in page.slices}


@pytest.mark.parametrize(
    ("needle", "expected"),
    [
        ("%", {"100% sure"}),
        ("0% S", {"100% sure"}),
        ("_", {"snake_case"}),
        ("E_C", {"snake_case"}),
        ("\\", {"C:\\temp"}),
        (":\\T", {"C:\\temp"}),
        ("'", {"it's"}),
        ("ÄRGER", {"Ärger"}),
        ("straSSE", {"Straße"}),
        ("СЛОВО", {"слово"}),
        ("cafe\N{COMBINING ACUTE ACCENT}", {"Café"}),
        ("nowhere", set[str]()),
    ],
)
async def test_a_search_is_literal_and_blind_to_case(database: Database, needle: str, expected: set[str]) -> None:
    await _titled(
        database, None, "", "100% sure", "snake_case", "snakeXcase", "C:\\temp", "it's", "Ärger", "Straße", "слово", "Café", "100 surely"
    )
    assert await _found(database, needle) == expected


async def test_an_empty_search_finds_all(database: Database) -> None:
    await _titled(database, None, "", "x")
    assert await _found(database, "") == {None, "", "x"}


async def test_a_search_finds_what_a_summary_is_and_not_what_it_was(database: Database) -> None:
    [conversation] = await _titled(database, "Before")
    async with database.write() as connection:
        await conversations.save(connection, a_conversation(conversation.agent_id, id=conversation.id, summary="AFTER"))
    assert (await _found(database, "before"), await _found(database, "after")) == (set(), {"AFTER"})


@pytest.mark.parametrize("letter", ["\N{MUSICAL SYMBOL EIGHTH NOTE}", "\N{HEBREW LETTER SHIN WITH DAGESH AND SHIN DOT}", "%"])
async def test_a_search_may_be_for_the_longest_text_whatever_folding_makes_of_it(database: Database, letter: str) -> None:
    long = letter * 10_000
    await _titled(database, long, long[1:])
    assert await _found(database, long) == {long}
