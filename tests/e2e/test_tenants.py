"""Two tenants that do the same do not see each other, whatever they ask and however they ask."""

from collections.abc import Mapping

import pytest

from tests.e2e.client import CREATE_AGENT, CREATE_CONVERSATION, FOLLOW, SEND, Client, Refused, Transcript

pytestmark = pytest.mark.asyncio(loop_scope="session")

OVERVIEW = """
{
  viewer { tenant }
  agents { totalCount nodes { id conversations { totalCount nodes { id } } } }
  conversations { totalCount nodes { id agent { id } messages { nodes { id text } } runs { nodes { id idempotencyKey } } } }
}
"""
NODE = "query ($id: ID!) { node(id: $id) { __typename id } }"
NODES = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
BY_ID = [
    "query ($id: ID!) { agent(id: $id) { id } }",
    "query ($id: ID!) { conversation(id: $id) { id } }",
    "query ($id: ID!) { run(id: $id) { id } }",
]
MUTATIONS = '{ __type(name: "Mutation") { fields { name } } }'
LIST_EVENTS = "subscription { conversationListEvents { kind conversationId conversation { summary } } }"
CURSORS = "query ($after: String) { conversations(first: 1, after: $after) { pageInfo { endCursor } } }"
RUN_EVENTS = "subscription ($id: ID!) { runEvents(runId: $id, after: 0) { sequence } }"


async def the_same_morning(client: Client) -> dict[str, str]:
    """What both tenants do, with the same keys and names; the ids of what it made."""
    block = {"label": "human", "value": "Likes short answers."}
    agent_id = (await client.ask(CREATE_AGENT, input={"name": "Guide", "blocks": [block]}))["createAgent"]["agent"]["id"]
    conversation = await client.ask(CREATE_CONVERSATION, input={"agentId": agent_id, "idempotencyKey": "morning"})
    conversation_id = conversation["createConversation"]["conversation"]["id"]
    sent = await client.send(conversation_id, "Good morning", idempotencyKey="greeting", groupId="first", waitSeconds=10)
    assert not sent["deduplicated"]
    agent = await client.ask("query ($id: ID!) { agent(id: $id) { blocks { id } } }", id=agent_id)
    return {
        "Agent": agent_id,
        "Block": agent["agent"]["blocks"][0]["id"],
        "Conversation": conversation_id,
        "Run": sent["run"]["id"],
        "UserMessage": sent["messages"][0]["id"],
        "AssistantMessage": sent["messages"][1]["id"],
    }


async def test_tenants_that_do_the_same_each_have_their_own(client: Client, stranger: Client) -> None:
    mine, theirs = await the_same_morning(client), await the_same_morning(stranger)
    assert not set(mine.values()) & set(theirs.values())
    for asking, own in ((client, mine), (stranger, theirs)):
        seen = await asking.ask(OVERVIEW)
        assert seen["viewer"] == {"tenant": asking.headers["X-Tenant"]}
        (agent,), (conversation,) = seen["agents"]["nodes"], seen["conversations"]["nodes"]
        assert (seen["agents"]["totalCount"], seen["conversations"]["totalCount"]) == (1, 1)
        assert agent == {"id": own["Agent"], "conversations": {"totalCount": 1, "nodes": [{"id": own["Conversation"]}]}}
        assert (conversation["id"], conversation["agent"]["id"]) == (own["Conversation"], own["Agent"])
        assert [message["id"] for message in conversation["messages"]["nodes"]][1:] == [own["UserMessage"], own["AssistantMessage"]]
        assert conversation["runs"]["nodes"] == [{"id": own["Run"], "idempotencyKey": "greeting"}]


async def test_nothing_of_another_tenant_is_found_by_its_id(client: Client, stranger: Client) -> None:
    theirs = await the_same_morning(stranger)
    for kind, id_ in theirs.items():
        assert (await stranger.ask(NODE, id=id_))["node"] == {"__typename": kind, "id": id_}
        assert await client.ask(NODE, id=id_) == {"node": None}
    assert (await client.ask(NODES, ids=list(theirs.values())))["nodes"] == [None] * len(theirs)
    for query, id_ in zip(BY_ID, (theirs["Agent"], theirs["Conversation"], theirs["Run"]), strict=True):
        answer = await client.answer(query, id=id_)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]
        assert set(answer["data"].values()) == {None}
    filtered = await client.ask("query ($id: ID!) { conversations(filter: { agentId: $id }) { totalCount } }", id=theirs["Agent"])
    assert filtered["conversations"] == {"totalCount": 0}


async def test_nobody_writes_to_another_tenant_not_even_with_its_keys(client: Client, stranger: Client) -> None:
    theirs = await the_same_morning(stranger)
    before = (await stranger.ask(OVERVIEW), await client.ask(OVERVIEW))
    intrusions = [
        (SEND, {"conversationId": theirs["Conversation"], "messages": [{"text": "Good morning"}], "idempotencyKey": "greeting"}),
        (SEND, {"conversationId": theirs["Conversation"], "messages": [{"text": "Good morning"}], "groupId": "first", "waitSeconds": 1}),
        (CREATE_CONVERSATION, {"agentId": theirs["Agent"], "idempotencyKey": "morning"}),
    ]
    for document, given in intrusions:
        answer = await client.answer(document, input=given)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]
    assert (await stranger.ask(OVERVIEW), await client.ask(OVERVIEW)) == before


def _intrusions(theirs: dict[str, str]) -> Mapping[str, Mapping[str, object]]:
    """By mutation, what is wanted of something that is another tenant's."""
    agent: dict[str, object] = {"id": theirs["Agent"]}
    conversation: dict[str, object] = {"id": theirs["Conversation"]}
    response: dict[str, object] = {"toolCallId": "toolcall-1", "decision": {"deny": {"reason": "no"}}}
    return {
        "updateAgent": {**agent, "name": "Mine"},
        "deleteAgent": agent,
        "updateBlock": {"id": theirs["Block"], "value": "Likes long answers."},
        "createConversation": {"agentId": theirs["Agent"], "idempotencyKey": "morning"},
        "updateConversation": {**conversation, "summary": "Mine"},
        "deleteConversation": conversation,
        "forkConversation": {**conversation, "throughMessageId": theirs["UserMessage"], "idempotencyKey": "fork"},
        "recompileConversation": conversation,
        "sendMessage": {"conversationId": theirs["Conversation"], "messages": [{"text": "Good morning"}], "whenBusy": "INTERRUPT"},
        "respondToToolCalls": {"conversationId": theirs["Conversation"], "responses": [response], "idempotencyKey": "greeting"},
        "cancelConversation": conversation,
        "cancelRun": {"id": theirs["Run"]},
        "compactConversation": {**conversation, "idempotencyKey": "greeting"},
    }


NEEDS_NOTHING = {"createAgent"}
NOT_FOUND_FIRST = "mutation ($input: {type}!) {{ {name}(input: $input) {{ __typename }} }}"


async def test_every_mutation_finds_nothing_of_another_tenant(client: Client, stranger: Client) -> None:
    theirs = await the_same_morning(stranger)
    before = (await stranger.ask(OVERVIEW), await client.ask(OVERVIEW))
    intrusions = _intrusions(theirs)
    mutations = {field["name"] for field in (await client.ask(MUTATIONS))["__type"]["fields"]}
    assert mutations - NEEDS_NOTHING == set(intrusions), "a mutation that nobody has tried here"
    for name, given in intrusions.items():
        document = NOT_FOUND_FIRST.format(type=f"{name[0].upper()}{name[1:]}Input", name=name)
        answer = await client.answer(document, input=given)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"], name
    assert (await stranger.ask(OVERVIEW), await client.ask(OVERVIEW)) == before


async def test_a_fork_cannot_end_with_a_message_of_another_tenant(client: Client, stranger: Client) -> None:
    mine, theirs = await the_same_morning(client), await the_same_morning(stranger)
    document = NOT_FOUND_FIRST.format(type="ForkConversationInput", name="forkConversation")
    answer = await client.answer(document, input={"id": mine["Conversation"], "throughMessageId": theirs["UserMessage"]})
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]


async def test_a_cursor_of_another_tenant_is_none(client: Client, stranger: Client) -> None:
    await the_same_morning(client)
    await the_same_morning(stranger)
    cursor = (await stranger.ask(CURSORS))["conversations"]["pageInfo"]["endCursor"]
    answer = await client.answer(CURSORS, after=cursor)
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["INVALID_CURSOR"]


async def test_nobody_hears_of_the_list_of_another_tenant(client: Client, stranger: Client) -> None:
    async with client.socket() as socket:
        heard = await socket.start(LIST_EVENTS)
        assert (await anext(heard))["conversationListEvents"]["kind"] == "CAUGHT_UP"
        await the_same_morning(stranger)
        conversation_id = await client.conversation()
        told = (await anext(heard))["conversationListEvents"]
        assert (told["kind"], told["conversationId"]) == ("CREATED", conversation_id)


async def test_nobody_follows_another_tenant(client: Client, stranger: Client) -> None:
    theirs = await the_same_morning(stranger)
    async with client.socket() as socket:
        for document, id_ in ((FOLLOW, theirs["Conversation"]), (RUN_EVENTS, theirs["Run"])):
            with pytest.raises(Refused) as refused:
                await socket.ask(document, id=id_)
            assert [error["extensions"]["code"] for error in refused.value.errors] == ["NOT_FOUND"]


async def test_a_retry_is_answered_with_what_was_done_in_the_same_tenant(client: Client, stranger: Client) -> None:
    mine, theirs = await the_same_morning(client), await the_same_morning(stranger)
    for asking, own in ((client, mine), (stranger, theirs)):
        again = await asking.send(own["Conversation"], "Good morning", idempotencyKey="greeting", groupId="first")
        assert (again["deduplicated"], again["run"]["id"]) == (True, own["Run"])
        created = await asking.ask(CREATE_CONVERSATION, input={"agentId": own["Agent"], "idempotencyKey": "morning"})
        assert created["createConversation"]["conversation"]["id"] == own["Conversation"]
        seen = await asking.followed(own["Conversation"], own["Run"], Transcript(0))
        assert {item["runId"] for item in seen.seen} == {None, own["Run"]}
