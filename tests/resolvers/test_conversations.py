"""Changing, deleting, forking, recompiling and listing conversations, as a client asks for it."""

import asyncio
from typing import Any

import pytest

from tests.resolvers.asking import Client
from vocabulary.ids import Noun, new_id

CREATE_AGENT = "mutation M($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }"
CREATE = "mutation M($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id } } }"
SEND = "mutation M($input: SendMessageInput!) { sendMessage(input: $input) { run { id } messages { id } } }"
UPDATE = """mutation M($input: UpdateConversationInput!) { updateConversation(input: $input) {
    conversation { id summary model modelSettings { temperature topP } headSequence } clientMutationId } }"""
DELETE = "mutation M($input: DeleteConversationInput!) { deleteConversation(input: $input) { deletedConversationId clientMutationId } }"
FORK = """mutation M($input: ForkConversationInput!) { forkConversation(input: $input) {
    conversation { id forkedFrom { id } headSequence messages { nodes { __typename text runId } } }
    conversationEdge { cursor node { id } } clientMutationId } }"""
RECOMPILE = """mutation M($input: RecompileConversationInput!) { recompileConversation(input: $input) {
    systemPrompt conversation { id headSequence } clientMutationId } }"""
LIST = """query Q($first: Int, $after: String, $filter: ConversationFilter, $orderBy: ConversationOrder) {
    conversations(first: $first, after: $after, filter: $filter, orderBy: $orderBy) {
        totalCount nodes { summary } pageInfo { endCursor } } }"""
EVENTS = """subscription S($id: ID!, $after: Int) { conversationEvents(conversationId: $id, after: $after) {
    sequence payload { __typename ... on StreamReset { reason headSequence } } } }"""


async def _conversation(client: Client, **given: object) -> str:
    agent = (await client.ask(CREATE_AGENT, input={"name": "Ann", "instructions": "Be kind."}))["createAgent"]["agent"]["id"]
    return (await client.ask(CREATE, input={"agentId": agent, **given}))["createConversation"]["conversation"]["id"]


async def _sent(client: Client, id_: str) -> dict[str, Any]:
    given = {"conversationId": id_, "messages": [{"text": "hello"}], "waitSeconds": 30}
    return (await client.ask(SEND, input=given))["sendMessage"]


async def test_absent_keeps_and_null_clears(client: Client) -> None:
    id_ = await _conversation(client, summary="s", model="demo/echo", modelSettings={"temperature": 0.5})
    given = {"id": id_, "modelSettings": {"topP": 0.1}, "clientMutationId": "m"}
    changed = (await client.ask(UPDATE, input=given))["updateConversation"]
    shown = changed["conversation"]
    assert (shown["summary"], shown["model"], shown["modelSettings"]) == ("s", "demo/echo", {"temperature": 0.5, "topP": 0.1})
    assert (shown["headSequence"], changed["clientMutationId"]) == (2, "m")
    given = {"id": id_, "summary": None, "model": None, "modelSettings": {"temperature": None}}
    shown = (await client.ask(UPDATE, input=given))["updateConversation"]["conversation"]
    assert (shown["summary"], shown["model"], shown["modelSettings"]) == (None, None, {"temperature": None, "topP": 0.1})
    shown = (await client.ask(UPDATE, input={"id": id_, "modelSettings": None}))["updateConversation"]["conversation"]
    assert shown["modelSettings"] is None


async def test_bad_changes_are_refused_by_name(client: Client) -> None:
    id_ = await _conversation(client, summary="s")
    bad = {"id": id_, "summary": "t", "modelSettings": {"temperature": 3.0}}
    assert await client.refused(UPDATE, input=bad) == {"code": "BAD_USER_INPUT", "argument": "input.modelSettings.temperature"}
    assert await client.refused(UPDATE, input={"id": id_, "summary": "t", "model": "no/such"}) == {
        "code": "MODEL_NOT_FOUND",
        "model": "no/such",
    }
    assert (await client.ask(LIST))["conversations"]["nodes"] == [{"summary": "s"}]


async def test_a_deleted_conversation_is_nowhere(client: Client) -> None:
    id_ = await _conversation(client, summary="s")
    sent = await _sent(client, id_)
    ids = [id_, sent["run"]["id"], sent["messages"][0]["id"]]
    nodes = "query Q($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert await client.ask(nodes, ids=ids) == {"nodes": [{"id": each} for each in ids]}
    gone = (await client.ask(DELETE, input={"id": id_, "clientMutationId": "m"}))["deleteConversation"]
    assert gone == {"deletedConversationId": id_, "clientMutationId": "m"}
    assert await client.ask(nodes, ids=ids) == {"nodes": [None] * 3}
    assert (await client.ask(LIST))["conversations"] == {"totalCount": 0, "nodes": [], "pageInfo": {"endCursor": None}}
    for document in (UPDATE, DELETE, FORK, RECOMPILE):
        assert await client.refused(document, input={"id": id_}) == {"code": "NOT_FOUND"}
    assert await client.refused(SEND, input={"conversationId": id_, "messages": [{"text": "?"}]}) == {"code": "NOT_FOUND"}
    assert await client.refused("query Q($id: ID!) { conversation(id: $id) { messages { totalCount } } }", id=id_) == {"code": "NOT_FOUND"}
    assert await client.refused("query Q($id: ID!) { run(id: $id) { id } }", id=sent["run"]["id"]) == {"code": "NOT_FOUND"}
    assert (await client.not_followed(EVENTS, id=id_, after=0)).extensions == {"code": "NOT_FOUND"}
    run_events = "subscription S($id: ID!) { runEvents(runId: $id) { sequence } }"
    assert (await client.not_followed(run_events, id=sent["run"]["id"])).extensions == {"code": "NOT_FOUND"}


async def test_a_follower_is_told_of_the_deletion_and_completed(client: Client) -> None:
    id_ = await _conversation(client)
    told = list[dict[str, Any]]()
    async with asyncio.timeout(20):
        async for event in client.follow(EVENTS, id=id_):
            told.append(event)
            if len(told) == 1:
                await client.ask(DELETE, input={"id": id_})
    assert [event["payload"]["__typename"] for event in told] == ["CaughtUp", "StreamReset"]
    assert told[-1]["payload"] == {"__typename": "StreamReset", "reason": "CONVERSATION_DELETED", "headSequence": 2}


async def test_a_fork_has_an_edge_of_the_list_and_names_its_source(client: Client) -> None:
    id_ = await _conversation(client)
    message = (await _sent(client, id_))["messages"][0]["id"]
    given = {"id": id_, "throughMessageId": message, "idempotencyKey": "k", "clientMutationId": "m"}
    made = (await client.ask(FORK, input=given))["forkConversation"]
    fork = made["conversation"]
    assert (fork["forkedFrom"], fork["headSequence"], made["clientMutationId"]) == ({"id": id_}, 2, "m")
    assert fork["messages"]["nodes"] == [
        {"__typename": "SystemMessage", "text": "Be kind.", "runId": None},
        {"__typename": "UserMessage", "text": "hello", "runId": None},
    ]
    listed = await client.ask("{ conversations(first: 1) { edges { cursor node { id } } } }")
    assert listed["conversations"]["edges"] == [made["conversationEdge"]]
    assert (await client.ask(FORK, input=given))["forkConversation"]["conversation"]["id"] == fork["id"]
    conflict = {"code": "IDEMPOTENCY_CONFLICT", "idempotencyKey": "k"}
    assert await client.refused(FORK, input={"id": id_, "idempotencyKey": "k"}) == conflict
    await client.ask(DELETE, input={"id": id_})
    alone = await client.ask("query Q($id: ID!) { conversation(id: $id) { forkedFrom { id } messages { totalCount } } }", id=fork["id"])
    assert alone == {"conversation": {"forkedFrom": None, "messages": {"totalCount": 2}}}


@pytest.mark.parametrize("through", ["nonsense", new_id(Noun.MESSAGE)], ids=["malformed", "unknown"])
async def test_a_fork_through_nothing_is_not_found(client: Client, through: str) -> None:
    id_ = await _conversation(client)
    assert await client.refused(FORK, input={"id": id_, "throughMessageId": through}) == {"code": "NOT_FOUND"}


async def test_another_tenant_can_do_none_of_it(client: Client, stranger: Client) -> None:
    id_ = await _conversation(client, summary="s")
    message = (await _sent(client, id_))["messages"][0]["id"]
    for document in (UPDATE, DELETE, FORK, RECOMPILE):
        assert await stranger.refused(document, input={"id": id_}) == {"code": "NOT_FOUND"}
    theirs = await _conversation(stranger)
    assert await stranger.refused(FORK, input={"id": theirs, "throughMessageId": message}) == {"code": "NOT_FOUND"}
    assert (await stranger.ask(LIST, filter={"summaryContains": "s"}))["conversations"]["totalCount"] == 0


async def test_a_dry_run_shows_the_prompt_and_stores_nothing(client: Client) -> None:
    id_ = await _conversation(client)
    for given in ({"dryRun": True}, {}, {"dryRun": None}):
        shown = (await client.ask(RECOMPILE, input={"id": id_, **given, "clientMutationId": "m"}))["recompileConversation"]
        assert shown == {"systemPrompt": "Be kind.", "conversation": {"id": id_, "headSequence": 1}, "clientMutationId": "m"}


async def test_a_search_counts_and_pages_and_its_cursors_hold_in_every_filter_of_their_order(client: Client) -> None:
    for summary in ("One Apple", "two", "Three APPLES"):
        await _conversation(client, summary=summary)
    apples = {"summaryContains": "apple"}
    page = (await client.ask(LIST, first=1, filter=apples))["conversations"]
    assert (page["totalCount"], page["nodes"]) == (2, [{"summary": "Three APPLES"}])
    cursor = page["pageInfo"]["endCursor"]
    assert (await client.ask(LIST, after=cursor, filter=apples))["conversations"]["nodes"] == [{"summary": "One Apple"}]
    assert (await client.ask(LIST, after=cursor))["conversations"]["nodes"] == [{"summary": "two"}, {"summary": "One Apple"}]
    other = {"field": "LAST_MESSAGE_AT", "direction": "DESC"}
    assert await client.refused(LIST, after=cursor, orderBy=other) == {"code": "INVALID_CURSOR", "argument": "after"}
