"""The relations of one operation's nodes."""

from resolvers import presenters
from resolvers.context import RequestContext
from schema.connections import PageArguments
from schema.conversations import Conversation
from tests.resolvers.asking import Client


async def _below(context: RequestContext, conversation: Conversation) -> tuple[int, int, int, int, str | None]:
    history = await context.messages_of(conversation, PageArguments(), None)
    runs = await context.runs_of(conversation, PageArguments(), None)
    active = await context.active_run_of(conversation)
    return len(history.edges), await history.total_count(), len(runs.edges), await runs.total_count(), active and active.id


async def test_what_is_shown_below_a_conversation_is_never_older_than_its_head(client: Client) -> None:
    """One operation may come to a conversation twice, by two ways, and more may have happened in between."""
    context = client.context()
    made = await client.rig.conversation()
    first = presenters.conversation(made)
    assert await _below(context, first) == (1, 1, 0, 0, None)
    run = await client.rig.ended((await client.rig.say(made.id, "hello")).run)
    later = presenters.conversation(await client.rig.read(made.id))
    assert later.head_sequence > first.head_sequence
    assert await _below(context, later) == (3, 3, 1, 1, None)
    assert (await context.runs_of(later, PageArguments(), None)).nodes()[0].id == run.id
