"""The feed of the conversation list, as a sidebar sees it: query at CAUGHT_UP, apply what follows, and hold what a query would give."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from tests.resolvers.asking import Client, counted_statements
from tests.rig import TENANT
from vocabulary.ids import Noun, new_id
from vocabulary.lists import ListCaughtUp

ROW = "id summary model status lastMessageAt lastRunCompletedAt updatedAt"
LIST = f"{{ conversations {{ nodes {{ {ROW} }} }} }}"
FEED = f"subscription S($agentId: ID) {{ conversationListEvents(agentId: $agentId) {{ kind conversationId conversation {{ {ROW} }} }} }}"

CAUGHT_UP = {"kind": "CAUGHT_UP", "conversationId": None, "conversation": None}


class Sidebar:
    """What a client does that wants to show the list and nothing more."""

    def __init__(self, client: Client, events: AsyncGenerator[dict[str, Any]]) -> None:
        self.kinds: list[str] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self._client = client
        self._events = events

    async def next(self) -> dict[str, Any]:
        event = await anext(self._events)
        self.kinds.append(event["kind"])
        match event:
            case {"kind": "CAUGHT_UP"}:
                self.rows = await self.queried()
            case {"kind": "DELETED"}:
                self.rows.pop(event["conversationId"])
            case _:
                assert event["conversation"]["id"] == event["conversationId"]
                self.rows[event["conversationId"]] = event["conversation"]
        return event

    async def queried(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in (await self._client.ask(LIST))["conversations"]["nodes"]}

    async def until_idle(self, conversation_id: str) -> None:
        """After an answer."""
        while not self.rows.get(conversation_id, {}).get("lastRunCompletedAt"):
            await self.next()

    async def told_of(self) -> str:
        """The next conversation that something is told of. The feed may say at any time that it is caught up once more."""
        while (event := await self.next()) == CAUGHT_UP:
            pass
        id_: str = event["conversationId"]
        return id_


@asynccontextmanager
async def sidebar(client: Client, **arguments: object) -> AsyncGenerator[Sidebar]:
    async with aclosing(client.follow(FEED, **arguments)) as events:
        made = Sidebar(client, events)
        assert await made.next() == CAUGHT_UP
        yield made


async def test_whoever_applies_the_feed_holds_what_the_list_has(client: Client) -> None:
    before = await client.rig.conversation()
    async with sidebar(client) as seen:
        assert list(seen.rows) == [before.id]
        conversation = await client.rig.conversation()
        sent = await client.rig.say(conversation.id, "hello")
        await seen.until_idle(conversation.id)
        await client.rig.ended(sent.run)
        assert seen.rows == await seen.queried()
        told = [kind for kind in seen.kinds if kind != "CAUGHT_UP"]
        assert told[0] == "CREATED"
        assert set(told[1:]) == {"CHANGED"}
        assert seen.rows[conversation.id]["status"] == "IDLE"


async def test_a_list_shows_nothing_of_another_tenants(client: Client, stranger: Client) -> None:
    async with sidebar(stranger) as theirs, sidebar(client) as ours:
        conversation = await client.rig.conversation()
        assert await ours.told_of() == conversation.id
        async with client.rig.engine.log.transaction() as transaction:
            transaction.lists_in_doubt(stranger.tenant)
        assert await theirs.next() == CAUGHT_UP
        assert theirs.rows == {}


async def test_a_list_of_one_agent_shows_its_conversations_only(client: Client) -> None:
    mine, other = await client.rig.conversation(), await client.rig.conversation()
    async with sidebar(client, agentId=mine.agent_id) as seen:
        await client.rig.say(other.id, "hello")
        await client.rig.say(mine.id, "hello")
        assert await seen.told_of() == mine.id


async def test_an_agent_that_is_unknown_malformed_or_foreign_has_no_list(client: Client, stranger: Client) -> None:
    conversation = await client.rig.conversation()
    for id_ in (new_id(Noun.AGENT), "nonsense", "", conversation.id):
        assert (await client.not_followed(FEED, agentId=id_)).extensions == {"code": "NOT_FOUND"}
    assert (await stranger.not_followed(FEED, agentId=conversation.agent_id)).extensions == {"code": "NOT_FOUND"}


async def test_no_agent_at_all_means_every_conversation(client: Client) -> None:
    async with sidebar(client, agentId=None) as seen:
        conversation = await client.rig.conversation()
        assert await seen.told_of() == conversation.id


async def test_to_follow_a_list_that_others_follow_asks_the_database_nothing(client: Client) -> None:
    async with sidebar(client):
        with counted_statements() as statements:
            async with aclosing(client.follow(FEED)) as events:
                assert await anext(events) == CAUGHT_UP
                client.rig.engine.log.bus.publish((), [ListCaughtUp(TENANT)])
                assert await anext(events) == CAUGHT_UP
        assert statements == []
