"""Loading in one breath, and not from memory when that is too old."""

import asyncio

from db.messages import Filter
from db.paging import Window
from resolvers.loaders import Loaders, MessagesAsked, Of
from tests.resolvers.asking import counted_statements
from tests.rig import TENANT, Rig
from vocabulary.ids import Noun, new_id

LAST = MessagesAsked(Filter(), Window(size=10, forward=False))
FIRST = MessagesAsked(Filter(), Window(size=1))


async def test_what_is_asked_for_together_is_read_together(parley: Rig) -> None:
    ids = [(await parley.conversation()).id for _ in range(3)]
    loaders = Loaders(parley.database, TENANT)
    with counted_statements() as statements:
        rows = await asyncio.gather(*map(loaders.conversations.load, [*ids, *ids, new_id(Noun.CONVERSATION)]))
        pages = await asyncio.gather(*(loaders.history.load(Of(id_, asked)) for id_ in ids for asked in (LAST, FIRST)))
    assert [row and row.id for row in rows] == [*ids, *ids, None]
    assert [piece.item.conversation_id for page in pages for piece in page.slices] == [id_ for id_ in ids for _ in range(2)]
    assert len(statements) == 1 + 2  # one for the rows, one for each way of asking


async def test_children_are_read_again_for_a_parent_that_was_read_later(parley: Rig) -> None:
    """A head must never be newer than what is shown below it."""
    conversation = await parley.conversation()
    loaders = Loaders(parley.database, TENANT)
    before = await loaders.history.load(Of(conversation.id, LAST, conversation.head_sequence))
    await parley.say(conversation.id, "hello")
    again = await loaders.history.load(Of(conversation.id, LAST, conversation.head_sequence))
    later = await loaders.history.load(Of(conversation.id, LAST, (await parley.read(conversation.id)).head_sequence))
    assert again is before
    assert len(later.slices) > len(before.slices)


async def test_more_parents_than_one_statement_takes_are_read_in_several(parley: Rig) -> None:
    id_ = (await parley.conversation()).id
    asked = [id_, *(new_id(Noun.CONVERSATION) for _ in range(1500))]
    loaders = Loaders(parley.database, TENANT)
    with counted_statements() as statements:
        pages = await asyncio.gather(*(loaders.history.load(Of(parent, LAST)) for parent in asked))
    assert [len(page.slices) for page in pages] == [1] + [0] * 1500
    assert len(statements) == 2
