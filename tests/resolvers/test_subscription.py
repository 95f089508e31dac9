"""Subscriptions on a running engine, on both databases. What a stream holds is tested with the reader; here, what a client sees of it."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from runs.commands.agents import delete_agent
from runs.commands.changes import ConversationChange, update_conversation
from runs.commands.deletion import delete_conversation
from runs.workers.orphans import erase_orphans
from streams.hub import HubLimits
from tests.db.failing import FailingDatabase
from tests.resolvers.asking import Client
from tests.rig import TENANT, rig
from vocabulary.ids import Noun, new_id

FIELDS = """sequence previousSequence runId payload { __typename
    ... on MessageStarted { message { id type } messageEdge { cursor } }
    ... on MessageDelta { messageId messageType offset text }
    ... on MessageCompleted { message { id type text ordinal } messageEdge { cursor } }
    ... on RunChanged { status stopReason run { id status conversation { headSequence status } } }
    ... on ConversationChanged { conversation { status headSequence messages { totalCount } } }
    ... on CaughtUp { headSequence } ... on StreamReset { reason headSequence } }"""
CONVERSATION = f"""subscription S($id: ID!, $after: Int, $deltas: DeltaMode, $types: [MessageType!]) {{
    conversationEvents(conversationId: $id, after: $after, deltas: $deltas, types: $types) {{ {FIELDS} }} }}"""
RUN = f"""subscription S($id: ID!, $after: Int, $deltas: DeltaMode, $types: [MessageType!]) {{
    runEvents(runId: $id, after: $after, deltas: $deltas, types: $types) {{ {FIELDS} }} }}"""
RELATIONS = "summary activeRun { id } agent { name } events { headSequence }"
ITEMS_WITH_RELATIONS = f"""subscription S($id: ID!) {{
    conversationEvents(conversationId: $id) {{ payload {{ ... on ConversationChanged {{ conversation {{ {RELATIONS} }} }} }} }} }}"""
LIST_WITH_RELATIONS = f"subscription S($agentId: ID) {{ conversationListEvents(agentId: $agentId) {{ conversation {{ {RELATIONS} }} }} }}"
LIST = "subscription S($id: ID!) { conversationListEvents(agentId: $id) { kind } }"


async def _run_of(client: Client, run_id: str, **arguments: object) -> list[dict[str, Any]]:
    return [event async for event in client.follow(RUN, id=run_id, **arguments)]


async def _replay_of(client: Client, conversation_id: str, **arguments: object) -> list[dict[str, Any]]:
    """Everything before the first CaughtUp, and it."""
    events: list[dict[str, Any]] = []
    async with aclosing(client.follow(CONVERSATION, id=conversation_id, **arguments)) as followed:
        async for event in followed:
            events.append(event)
            if event["payload"]["__typename"] == "CaughtUp":
                break
    return events


def _names(events: list[dict[str, Any]]) -> list[str]:
    return [event["payload"]["__typename"] for event in events]


async def test_a_run_is_followed_to_its_end(client: Client) -> None:
    conversation = await client.rig.conversation()
    sent = await client.rig.say(conversation.id, "hello")
    events = await _run_of(client, sent.run.id, deltas="ALL")
    texts = "".join(event["payload"]["text"] for event in events if event["payload"]["__typename"] == "MessageDelta")
    assert events[-1]["payload"]["status"] == "COMPLETED"
    assert [event["previousSequence"] for event in events[1:]] == [event["sequence"] for event in events[:-1]]
    (answer,) = [
        event["payload"]["message"]
        for event in events
        if event["payload"]["__typename"] == "MessageCompleted" and event["payload"]["message"]["type"] == "ASSISTANT"
    ]
    assert texts in ("", answer["text"])  # "": the run had ended and its message was complete before we came


async def test_a_run_that_ended_long_ago_is_shown_and_completes(client: Client) -> None:
    conversation = await client.rig.conversation()
    run = await client.rig.ended((await client.rig.say(conversation.id, "hello")).run)
    for after in (None, 0, run.sequence, run.sequence + 1):
        events = await _run_of(client, run.id, after=after)
        assert "CaughtUp" in _names(events) or events[-1]["payload"]["status"] == "COMPLETED"


async def test_the_edges_of_events_are_those_of_the_history(client: Client) -> None:
    conversation = await client.rig.conversation()
    await client.rig.ended((await client.rig.say(conversation.id, "hello")).run)
    history = await client.ask(
        "query Q($id: ID!) { conversation(id: $id) { messages { edges { cursor node { id } } } } }", id=conversation.id
    )
    events = await _replay_of(client, conversation.id, after=0)
    edges = [
        {"cursor": event["payload"]["messageEdge"]["cursor"], "node": {"id": event["payload"]["message"]["id"]}}
        for event in events
        if event["payload"]["__typename"] == "MessageCompleted"
    ]
    assert edges == history["conversation"]["messages"]["edges"]


async def test_types_filter_message_events_and_nothing_else(client: Client) -> None:
    conversation = await client.rig.conversation()
    await client.rig.ended((await client.rig.say(conversation.id, "hello")).run)
    for deltas in ("ALL", "COALESCED", "NONE"):
        everything = await _replay_of(client, conversation.id, after=0, deltas=deltas)
        some = await _replay_of(client, conversation.id, after=0, deltas=deltas, types=["ASSISTANT"])
        assert [event["previousSequence"] for event in some[1:]] == [event["sequence"] for event in some[:-1]]
        expected = [event for event in everything if _is_of(event, "ASSISTANT")]
        assert [event["sequence"] for event in some] == [event["sequence"] for event in expected]


def _is_of(event: dict[str, Any], kind: str) -> bool:
    payload = event["payload"]
    type_ = payload["messageType"] if payload["__typename"] == "MessageDelta" else payload.get("message", {}).get("type")
    return type_ in (None, kind)


async def test_what_an_event_refers_to_is_read_anew_for_each(client: Client) -> None:
    """A subscription may live for days; what it has shown once must not be shown again from memory."""
    conversation = await client.rig.conversation()
    heads: list[int] = []
    async with aclosing(client.follow(CONVERSATION, id=conversation.id, deltas="NONE")) as followed:
        async for event in followed:
            match event["payload"]:
                case {"__typename": "CaughtUp"}:
                    await client.rig.say(conversation.id, "hello")
                case {"__typename": "RunChanged", "status": "COMPLETED"} if len(heads) < 2:
                    heads.append(event["payload"]["run"]["conversation"]["headSequence"])
                    await client.rig.say(conversation.id, "again")
                case {"__typename": "RunChanged", "status": "COMPLETED"}:
                    break
                case _:
                    pass
    assert heads[0] < heads[1]


WITH_RELATIONS = """subscription S($id: ID!) { conversationEvents(conversationId: $id, deltas: NONE) { payload { __typename
    ... on RunChanged { status run { conversation { id agent { name } } } }
    ... on ConversationChanged { conversation { agent { name } } } } } }"""


@pytest.mark.parametrize("with_its_agent", [False, True])
async def test_the_last_events_of_a_deleted_conversation_are_shown_whole(with_its_agent: bool, client: Client) -> None:
    rig, conversation = client.rig, await client.rig.conversation()
    told: list[dict[str, Any]] = []
    async with aclosing(client.follow(WITH_RELATIONS, id=conversation.id)) as followed:
        assert (await anext(followed))["payload"]["__typename"] == "CaughtUp"
        await rig.say(conversation.id, "hello")
        if with_its_agent:
            await delete_agent(rig.engine, TENANT, conversation.agent_id)
            await erase_orphans(rig.engine)
        else:
            await delete_conversation(rig.engine, TENANT, conversation.id)
        told = [event["payload"] async for event in followed]
    runs = [payload["run"]["conversation"] for payload in told if payload["__typename"] == "RunChanged"]
    assert runs
    assert {shown["id"] for shown in runs} == {conversation.id}
    assert told[-1]["__typename"] == "StreamReset"


async def test_a_position_beyond_the_head_resets_the_stream(client: Client) -> None:
    conversation = await client.rig.conversation()
    events = await _replay_of(client, conversation.id, after=99)
    assert _names(events) == ["StreamReset", "CaughtUp"]
    assert events[0]["payload"] == {"__typename": "StreamReset", "reason": "POSITION_AHEAD", "headSequence": 1}


async def test_a_database_that_is_away_delays_a_stream_and_does_not_refuse_it(database_url: str) -> None:
    database = FailingDatabase.open(database_url)
    async with rig(database, hub_limits=HubLimits(doubt_check_s=0.01)) as here:
        client, conversation = Client(here), await here.conversation()
        run = await here.ended((await here.say(conversation.id, "hello")).run)
        for document, id_ in ((CONVERSATION, conversation.id), (RUN, run.id), (LIST, conversation.agent_id)):
            database.recovered, database.failures = asyncio.Event(), 3
            async with aclosing(client.follow(document, id=id_)) as followed:
                assert await anext(followed)
            assert database.recovered.is_set()
    await database.close()


@pytest.mark.parametrize("document", [ITEMS_WITH_RELATIONS, LIST_WITH_RELATIONS])
async def test_an_item_waits_for_the_database_and_comes_whole(document: str, database_url: str) -> None:
    """The item itself needs no query when it is live; what it relates to does."""
    database = FailingDatabase.open(database_url)
    async with rig(database, hub_limits=HubLimits(doubt_check_s=0.01)) as here:
        conversation = await here.conversation()
        async with aclosing(Client(here).follow(document, id=conversation.id, agentId=conversation.agent_id)) as followed:
            await anext(followed)
            await update_conversation(here.engine, TENANT, ConversationChange(conversation_id=conversation.id, summary="Renamed"))
            database.recovered, database.failures = asyncio.Event(), 3
            item = await anext(followed)
            shown = item["conversation"] if "conversation" in item else item["payload"]["conversation"]
            assert shown == {"summary": "Renamed", "activeRun": None, "agent": {"name": "tester"}, "events": {"headSequence": 2}}
            assert database.recovered.is_set()
    await database.close()


@pytest.mark.parametrize(("document", "noun"), [(CONVERSATION, Noun.CONVERSATION), (RUN, Noun.RUN)])
async def test_what_is_unknown_malformed_or_foreign_is_never_followed(document: str, noun: Noun, client: Client, stranger: Client) -> None:
    conversation = await client.rig.conversation()
    run = (await client.rig.say(conversation.id, "hello")).run
    own = conversation.id if noun is Noun.CONVERSATION else run.id
    for id_ in (new_id(noun), "nonsense", "", own + "\0"):
        assert (await client.not_followed(document, id=id_)).extensions == {"code": "NOT_FOUND"}
    assert (await stranger.not_followed(document, id=own)).extensions == {"code": "NOT_FOUND"}
    refused = await client.not_followed(document, id=own, after=-1)
    assert refused.extensions == {"code": "BAD_USER_INPUT", "argument": "after"}
