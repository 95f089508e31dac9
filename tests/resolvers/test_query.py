"""Queries on a running engine, on both databases."""

from typing import Any

import pytest

from db import conversations
from runs.commands.agents import NewAgent, NewBlock, create_agent
from runs.commands.conversations import NewConversation, create_conversation
from tests.resolvers.asking import Client, counted_statements
from tests.rig import TENANT
from vocabulary.conversations import Agent, AgentTool, Conversation
from vocabulary.ids import Noun, new_id

PAGE_INFO = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
HISTORY = f"""
    query History($id: ID!, $first: Int, $after: String, $last: Int, $before: String, $filter: MessageFilter) {{
        conversation(id: $id) {{
            messages(first: $first, after: $after, last: $last, before: $before, filter: $filter) {{
                edges {{ cursor node {{ id ordinal type text }} }} totalCount {PAGE_INFO}
            }}
        }}
    }}
"""


async def _agent(client: Client, **more: Any) -> Agent:
    return await create_agent(client.rig.engine, TENANT, NewAgent(name="Ann", **more))


async def _conversation(client: Client, agent: Agent, **more: Any) -> Conversation:
    return await create_conversation(client.rig.engine, TENANT, NewConversation(agent_id=agent.id, **more))


async def _answered(client: Client, conversation: Conversation, *texts: str) -> None:
    for text in texts:
        await client.rig.ended((await client.rig.say(conversation.id, text)).run)


async def test_an_agent_shows_all_it_has(client: Client) -> None:
    agent = await _agent(
        client,
        description="d",
        instructions="i",
        blocks=(NewBlock(label="b", value="2"), NewBlock(label="a", value="1", read_only=True)),
        tools=(AgentTool(name="current_time", requires_approval=True),),
    )
    shown = await client.ask(
        """query Q($id: ID!) { agent(id: $id) {
            id name description instructions model modelSettings { temperature } createdAt
            blocks { label value readOnly isolated limit } tools { name requiresApproval source parameters }
            conversations { totalCount nodes { id } }
        } }""",
        id=agent.id,
    )
    assert shown["agent"] == {
        "id": agent.id,
        "name": "Ann",
        "description": "d",
        "instructions": "i",
        "model": "demo/echo",
        "modelSettings": {"temperature": None},
        "createdAt": agent.created_at.isoformat().replace("+00:00", "Z"),
        "blocks": [
            {"label": "a", "value": "1", "readOnly": True, "isolated": False, "limit": 5000},
            {"label": "b", "value": "2", "readOnly": False, "isolated": False, "limit": 5000},
        ],
        "tools": [
            {
                "name": "current_time",
                "requiresApproval": True,
                "source": "BUILTIN",
                "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
            }
        ],
        "conversations": {"totalCount": 0, "nodes": []},
    }


async def test_everything_leads_to_everything_else(client: Client) -> None:
    agent = await _agent(client)
    conversation = await _conversation(client, agent, summary="chat")
    await _answered(client, conversation, "hello")
    shown = await client.ask(
        """query Q($id: ID!) { conversation(id: $id) {
            summary status activeRun { id } forkedFrom { id } agent { id conversations { nodes { id } } }
            runs { totalCount nodes {
                status stopReason usage { requests totalTokens } steps { index model usage { requests } }
                conversation { id } messages { totalCount nodes { __typename text run { conversation { agent { name } } } } }
            } }
            messages { nodes { __typename } }
        } }""",
        id=conversation.id,
    )
    (run,) = shown["conversation"]["runs"]["nodes"]
    assert (shown["conversation"]["status"], shown["conversation"]["activeRun"], shown["conversation"]["forkedFrom"]) == (
        "IDLE",
        None,
        None,
    )
    assert shown["conversation"]["agent"] == {"id": agent.id, "conversations": {"nodes": [{"id": conversation.id}]}}
    assert (run["status"], run["stopReason"], run["usage"]["requests"]) == ("COMPLETED", "END_TURN", 1)
    assert [(step["index"], step["usage"]["requests"]) for step in run["steps"]] == [(0, 1)]
    assert [message["__typename"] for message in run["messages"]["nodes"]] == ["UserMessage", "AssistantMessage"]
    assert run["messages"]["totalCount"] == 2
    assert run["messages"]["nodes"][0]["run"]["conversation"]["agent"]["name"] == "Ann"
    types = [message["__typename"] for message in shown["conversation"]["messages"]["nodes"]]
    assert types == ["SystemMessage", "UserMessage", "AssistantMessage"]


async def test_nodes_come_in_the_order_asked_and_null_where_there_is_none(client: Client, stranger: Client) -> None:
    agent = await _agent(client, blocks=(NewBlock(label="a", value="1"),))
    conversation = await _conversation(client, agent)
    await _answered(client, conversation, "hello")
    async with client.rig.database.read() as connection:
        stored = (await conversations.read(connection, [conversation.id]))[conversation.id]
    document = "query Q($agent: ID!, $chat: ID!) { agent(id: $agent) { blocks { id } } conversation(id: $chat) { runs { nodes { id } } } }"
    inside = await client.ask(document, agent=agent.id, chat=conversation.id)
    block, run = inside["agent"]["blocks"][0]["id"], inside["conversation"]["runs"]["nodes"][0]["id"]
    ids = [run, agent.id, new_id(Noun.RUN), "nonsense", "", "conv-\0", block, conversation.id, stored.system_message_id, new_id(Noun.STEP)]
    document = "query Q($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"
    types = ["Run", "Agent", None, None, None, None, "Block", "Conversation", "SystemMessage", None]
    nodes = (await client.ask(document, ids=ids))["nodes"]
    assert [node and node["__typename"] for node in nodes] == types
    assert [node["id"] for node in nodes if node] == [run, agent.id, block, conversation.id, stored.system_message_id]
    assert (await stranger.ask(document, ids=ids))["nodes"] == [None] * len(ids)
    assert (await client.ask("query Q($id: ID!) { node(id: $id) { id } }", id="nonsense")) == {"node": None}
    assert await client.refused(document, ids=["x"] * 201) == {"code": "BAD_USER_INPUT", "argument": "ids"}


@pytest.mark.parametrize("field", ["agent", "conversation", "run"])
async def test_unknown_malformed_and_foreign_ids_are_not_found(field: str, client: Client, stranger: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    sent = await client.rig.say(conversation.id, "hello")
    own = {"agent": conversation.agent_id, "conversation": conversation.id, "run": sent.run.id}[field]
    document = f"query Q($id: ID!) {{ {field}(id: $id) {{ id }} }}"
    assert (await client.ask(document, id=own))[field] == {"id": own}
    assert await stranger.refused(document, id=own) == {"code": "NOT_FOUND"}
    for id_ in ("", "nonsense", own[:-1], own + "\0", own + "x" * 1000, "ü" + own, new_id(Noun.MESSAGE)):
        assert await client.refused(document, id=id_) == {"code": "NOT_FOUND"}


async def test_a_stranger_sees_empty_lists(client: Client, stranger: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    document = (
        "query Q($agent: ID) { agents { totalCount nodes { id } } conversations(filter: {agentId: $agent}) { totalCount nodes { id } } }"
    )
    nothing: dict[str, Any] = {"totalCount": 0, "nodes": []}
    assert await stranger.ask(document) == {"agents": nothing, "conversations": nothing}
    assert await stranger.ask(document, agent=conversation.agent_id) == {"agents": nothing, "conversations": nothing}
    assert (await client.ask(document, agent="conv-\0"))["conversations"] == nothing
    assert (await client.ask(document, agent=conversation.agent_id))["conversations"]["totalCount"] == 1


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_walk_a_history_both_ways(size: int, client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    await _answered(client, conversation, "a", "b", "c")
    whole = await client.ask(HISTORY, id=conversation.id, first=200)
    edges = whole["conversation"]["messages"]["edges"]
    assert [edge["node"]["ordinal"] for edge in edges] == [1, 2, 3, 4, 5, 6, 7]
    for direction, cursor, more, behind in (
        ("first", "after", "hasNextPage", "hasPreviousPage"),
        ("last", "before", "hasPreviousPage", "hasNextPage"),
    ):
        walked: list[Any] = []
        position = None
        while True:
            arguments = {direction: size, cursor: position}
            page = (await client.ask(HISTORY, id=conversation.id, **arguments))["conversation"]["messages"]
            assert page["totalCount"] == 7
            assert page["pageInfo"][behind] is bool(walked)
            walked = [*walked, *page["edges"]] if direction == "first" else [*page["edges"], *walked]
            position = page["pageInfo"]["endCursor" if direction == "first" else "startCursor"]
            if not page["pageInfo"][more]:
                break
        assert walked == edges


async def test_a_page_of_nothing_says_what_lies_around_it(client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    await _answered(client, conversation, "a")
    page = (await client.ask(HISTORY, id=conversation.id, first=0))["conversation"]["messages"]
    info = {"hasNextPage": True, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    assert page == {"edges": [], "totalCount": 3, "pageInfo": info}


async def test_a_filter_picks_messages_and_counts_them(client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    await _answered(client, conversation, "a", "b")
    document = HISTORY
    page = (await client.ask(document, id=conversation.id, filter={"types": ["USER"]}))["conversation"]["messages"]
    assert ([edge["node"]["text"] for edge in page["edges"]], page["totalCount"]) == (["a", "b"], 2)
    none = (await client.ask(document, id=conversation.id, filter={"runId": "x\0", "inContext": False}))["conversation"]["messages"]
    assert (none["edges"], none["totalCount"]) == ([], 0)
    everything = (await client.ask(document, id=conversation.id, filter=None))["conversation"]["messages"]
    assert everything["totalCount"] == 5


@pytest.mark.parametrize(
    ("arguments", "extensions"),
    [
        ({"first": 1, "last": 1}, {"code": "BAD_USER_INPUT", "argument": "last"}),
        ({"first": -1}, {"code": "BAD_USER_INPUT", "argument": "first"}),
        ({"last": 201}, {"code": "BAD_USER_INPUT", "argument": "last"}),
        ({"after": ""}, {"code": "INVALID_CURSOR", "argument": "after"}),
        ({"before": "bm9uc2Vuc2U"}, {"code": "INVALID_CURSOR", "argument": "before"}),
    ],
    ids=str,
)
async def test_pages_that_cannot_be(arguments: dict[str, object], extensions: dict[str, str], client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    assert await client.refused(HISTORY, id=conversation.id, **arguments) == extensions
    declared = "$first: Int, $after: String, $last: Int, $before: String"
    passed = "first: $first, after: $after, last: $last, before: $before"
    for root in ("agents", "conversations"):
        assert await client.refused(f"query Q({declared}) {{ {root}({passed}) {{ totalCount }} }}", **arguments) == extensions


async def test_a_cursor_of_another_conversation_order_or_tenant_is_refused(client: Client, stranger: Client) -> None:
    agent = await _agent(client)
    one, other = await _conversation(client, agent), await _conversation(client, agent)
    foreign = (await client.ask(HISTORY, id=other.id))["conversation"]["messages"]["pageInfo"]["endCursor"]
    assert (await client.refused(HISTORY, id=one.id, after=foreign))["code"] == "INVALID_CURSOR"
    listing = (
        "query Q($after: String, $order: ConversationOrder) { conversations(after: $after, orderBy: $order) { pageInfo { endCursor } } }"
    )
    cursor = (await client.ask(listing))["conversations"]["pageInfo"]["endCursor"]
    oldest_first = {"field": "CREATED_AT", "direction": "ASC"}
    assert (await client.ask(listing, after=cursor))["conversations"]["pageInfo"]["endCursor"] is None
    assert (await client.refused(listing, after=cursor, order=oldest_first))["code"] == "INVALID_CURSOR"
    assert (await stranger.refused(listing, after=cursor))["code"] == "INVALID_CURSOR"


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("field", ["CREATED_AT", "LAST_MESSAGE_AT", "LAST_RUN_COMPLETED_AT"])
async def test_conversations_are_walked_in_any_order(field: str, direction: str, client: Client) -> None:
    agent = await _agent(client)
    made = [await _conversation(client, agent) for _ in range(4)]
    for spoken in (made[2], made[0]):
        await _answered(client, spoken, "hello")
    document = """query Q($after: String, $order: ConversationOrder!) {
        conversations(first: 1, after: $after, orderBy: $order) { nodes { id lastMessageAt } pageInfo { hasNextPage endCursor } } }"""
    walked: list[str] = []
    after = None
    while True:
        page = (await client.ask(document, after=after, order={"field": field, "direction": direction}))["conversations"]
        walked += [node["id"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    ids = [conversation.id for conversation in made]
    assert sorted(walked) == sorted(ids)
    expected = ids if field == "CREATED_AT" else [ids[2], ids[0]]
    assert walked[: len(expected)] == (expected if direction == "ASC" else expected[::-1])


async def test_the_log_can_be_read_over_plain_queries(client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    await _answered(client, conversation, "hello there")
    document = """query Q($id: ID!, $after: Int, $first: Int, $deltas: DeltaMode) { conversation(id: $id) {
        headSequence events(after: $after, first: $first, deltas: $deltas) {
            endSequence headSequence hasMore events { sequence previousSequence payload { __typename } } } } }"""
    for deltas in ("ALL", "COALESCED", "NONE"):
        whole = (await client.ask(document, id=conversation.id, deltas=deltas, first=1000))["conversation"]["events"]
        after, walked, more = 0, list[dict[str, Any]](), True
        while more:
            page = (await client.ask(document, id=conversation.id, after=after, first=1, deltas=deltas))["conversation"]["events"]
            assert len(page["events"]) == 1
            walked += page["events"]
            after, more = page["endSequence"], page["hasMore"]
        assert walked == whole["events"]
        assert [item["previousSequence"] for item in walked] == [0, *(item["sequence"] for item in walked[:-1])]
        assert (after, whole["hasMore"], whole["headSequence"]) == (whole["headSequence"], False, whole["endSequence"])


@pytest.mark.parametrize(("argument", "value"), [("after", -1), ("first", 0), ("first", 1001)])
async def test_stretches_of_the_log_that_cannot_be(argument: str, value: int, client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    document = f"query Q($id: ID!) {{ conversation(id: $id) {{ events({argument}: {value}) {{ endSequence }} }} }}"
    assert await client.refused(document, id=conversation.id) == {"code": "BAD_USER_INPUT", "argument": argument}


async def test_the_server_tells_about_itself(client: Client) -> None:
    shown = await client.ask(
        """{ viewer { actor tenant } models { handle } tools { name }
             serverInfo { version maxPageSize maxSubscriptionsPerConnection maxReplay deltaRetentionSeconds } }"""
    )
    assert shown["viewer"] == {"actor": "tester", "tenant": TENANT}
    names = ["current_time", "conversation_search", "memory_append", "memory_replace"]
    assert (shown["models"], [tool["name"] for tool in shown["tools"]]) == ([{"handle": "demo/echo"}], names)
    assert shown["serverInfo"] == {
        "version": "1.2.3",
        "maxPageSize": 200,
        "maxSubscriptionsPerConnection": 100,
        "maxReplay": 10000,
        "deltaRetentionSeconds": 3600,
    }


ALL_OF_IT = """query Q($first: Int!) {
    conversations(first: $first) { totalCount nodes {
        id headSequence status forkedFrom { id } activeRun { id }
        agent { name blocks { label } tools { name } conversations(first: $first) { totalCount nodes { id agent { id } } } }
        messages(last: 3) { totalCount edges { cursor node { id run { id steps { id } conversation { id } } } } }
        runs(first: 2, statuses: [COMPLETED]) { totalCount nodes { id messages(first: 2) { totalCount nodes { id text } } } }
    } }
}"""


async def test_a_page_of_ten_costs_as_many_statements_as_one_of_two_hundred(client: Client) -> None:
    for _ in range(10):
        agent = await _agent(client, blocks=(NewBlock(label="a", value="1"),))
        for _ in range(20):
            await _conversation(client, agent)
    ids = [node["id"] for node in (await client.ask("{ conversations(first: 200) { nodes { id } } }"))["conversations"]["nodes"]]
    assert len(ids) == 200
    runs = [(await client.rig.say(id_, "hello")).run for id_ in (*ids[:3], *ids[-3:])]
    for run in runs:
        await client.rig.ended(run)
    costs: dict[int, int] = {}
    for size in (10, 200):
        with counted_statements() as statements:
            await client.ask(ALL_OF_IT, first=size)
        costs[size] = len(statements)
    assert costs[10] == costs[200]
    assert costs[200] < 20


async def test_a_count_is_made_only_when_asked_for(client: Client) -> None:
    conversation = await _conversation(client, await _agent(client))
    with counted_statements() as statements:
        await client.ask("query Q($id: ID!) { conversation(id: $id) { messages { nodes { id } } } }", id=conversation.id)
    assert len(statements) == 2
    assert not any("count(" in statement.lower() for statement in statements)
