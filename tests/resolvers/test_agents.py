"""Mutations on agents and memory blocks as a client sees them, on both databases: absent keeps, null clears, others see nothing."""

from contextlib import aclosing
from typing import Any

import pytest

from db.engine import Database
from runs.workers.worker import WorkerLimits
from tests.resolvers.asking import Client, counted_statements
from tests.rig import rig
from vocabulary.ids import Noun, new_id

FIELDS = """id name description instructions model updatedAt
    modelSettings { temperature topP maxOutputTokens contextWindow reasoningEffort parallelToolCalls }
    compactionSettings { mode model modelSettings { temperature topP } prompt promptAcknowledgement clipChars
        slidingWindowFraction triggerFraction }
    blocks { id label value description limit readOnly isolated } tools { name requiresApproval }"""
CREATE = f"mutation M($input: CreateAgentInput!) {{ createAgent(input: $input) {{ agent {{ {FIELDS} }} }} }}"
UPDATE = f"mutation M($input: UpdateAgentInput!) {{ updateAgent(input: $input) {{ agent {{ {FIELDS} }} clientMutationId }} }}"
DELETE = "mutation M($input: DeleteAgentInput!) { deleteAgent(input: $input) { deletedAgentId clientMutationId } }"
BLOCK = """mutation M($input: UpdateBlockInput!) { updateBlock(input: $input) {
    block { id label value description limit readOnly isolated } clientMutationId } }"""
CONVERSE = """mutation M($input: CreateConversationInput!) { createConversation(input: $input) {
    conversation { id isolatedBlocks { id label value isolated } messages { nodes { text } } } } }"""
AGENT = f"query Q($id: ID!) {{ agent(id: $id) {{ {FIELDS} }} }}"
NODE = "query Q($id: ID!) { node(id: $id) { id } }"

DEFAULT_COMPACTION: dict[str, Any] = {
    "mode": "SLIDING_WINDOW",
    "model": None,
    "modelSettings": None,
    "prompt": None,
    "promptAcknowledgement": False,
    "clipChars": None,
    "slidingWindowFraction": 0.3,
    "triggerFraction": 0.9,
}
COMPACTION: dict[str, Any] = {
    "mode": "ALL",
    "model": "demo/echo",
    "modelSettings": {"temperature": 0.5, "topP": 0.9},
    "prompt": "Sum up.",
    "promptAcknowledgement": True,
    "clipChars": 100,
    "slidingWindowFraction": 0.5,
    "triggerFraction": 1.0,
}
NO_SETTINGS: dict[str, Any] = dict.fromkeys(
    ("temperature", "topP", "maxOutputTokens", "contextWindow", "reasoningEffort", "parallelToolCalls")
)
SETTINGS: dict[str, Any] = {
    "temperature": 0.5,
    "topP": 0.9,
    "maxOutputTokens": 10,
    "contextWindow": 1000,
    "reasoningEffort": "LOW",
    "parallelToolCalls": False,
}
PERSONA = {"label": "persona", "value": "Terse.", "description": "Who you are", "limit": 10, "readOnly": True}
GIVEN: dict[str, Any] = {
    "name": "Ann",
    "description": "d",
    "instructions": "i",
    "model": "demo/echo",
    "modelSettings": SETTINGS,
    "compactionSettings": COMPACTION,
    "blocks": [{"label": "human", "value": "?"}, PERSONA],
    "tools": [{"name": "current_time", "requiresApproval": True}],
}


async def _agent(client: Client, **given: Any) -> dict[str, Any]:
    return (await client.ask(CREATE, input={**GIVEN, **given}))["createAgent"]["agent"]


async def _read(client: Client, agent_id: str) -> dict[str, Any]:
    return (await client.ask(AGENT, id=agent_id))["agent"]


async def _updated(client: Client, agent_id: str, **given: Any) -> dict[str, Any]:
    agent = (await client.ask(UPDATE, input={"id": agent_id, **given}))["updateAgent"]["agent"]
    assert agent == await _read(client, agent_id)
    return agent


def _without(agent: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in agent.items() if name not in ("updatedAt", *names)}


async def test_all_of_an_agent_is_given_back(client: Client) -> None:
    agent = await _agent(client)
    assert agent == await _read(client, agent["id"])
    assert {name: agent[name] for name in ("name", "description", "instructions", "model")} == {
        name: GIVEN[name] for name in ("name", "description", "instructions", "model")
    }
    assert (agent["modelSettings"], agent["compactionSettings"]) == (SETTINGS, COMPACTION)
    assert agent["tools"] == [{"name": "current_time", "requiresApproval": True}]


async def test_without_settings_compaction_has_its_defaults(client: Client) -> None:
    empty: list[dict[str, Any]] = [
        {}, {"compactionSettings": None}, {"compactionSettings": {}}, {"compactionSettings": dict.fromkeys(DEFAULT_COMPACTION)},
    ]  # fmt: skip
    for given in empty:
        made = (await client.ask(CREATE, input={"name": "Ann", **given}))["createAgent"]["agent"]
        assert made["compactionSettings"] == DEFAULT_COMPACTION


@pytest.mark.parametrize(
    ("field", "cleared"),
    [
        ("description", None),
        ("instructions", ""),
        ("model", "demo/echo"),
        ("modelSettings", NO_SETTINGS),
        ("compactionSettings", DEFAULT_COMPACTION),
        ("blocks", []),
        ("tools", []),
    ],
)
async def test_null_clears_one_field_and_keeps_all_others(client: Client, field: str, cleared: Any) -> None:
    agent = await _agent(client)
    updated = await _updated(client, agent["id"], **{field: None})
    assert updated[field] == cleared
    assert _without(updated, field) == _without(agent, field)


async def test_null_clears_one_setting_and_keeps_all_others(client: Client) -> None:
    """Of compaction: it has its default again."""
    agent = await _agent(client)
    for field, given, cleared in (("modelSettings", SETTINGS, NO_SETTINGS), ("compactionSettings", COMPACTION, DEFAULT_COMPACTION)):
        for setting in given:
            updated = await _updated(client, agent["id"], **{field: {setting: None}})
            assert updated[field] == {**given, setting: cleared[setting]}
            assert _without(updated, field) == _without(agent, field)
            await _updated(client, agent["id"], **{field: given})


async def test_what_is_absent_is_kept_at_every_depth(client: Client) -> None:
    agent = await _agent(client)
    empty: list[dict[str, Any]] = [
        {}, {"modelSettings": {}}, {"compactionSettings": {}}, {"compactionSettings": {"modelSettings": {}}},
    ]  # fmt: skip
    for given in empty:
        assert _without(await _updated(client, agent["id"], **given)) == _without(agent)
    deep = await _updated(client, agent["id"], compactionSettings={"modelSettings": {"topP": None}}, modelSettings={"temperature": 1.0})
    assert deep["compactionSettings"] == {**COMPACTION, "modelSettings": {"temperature": 0.5, "topP": None}}
    assert deep["modelSettings"] == {**SETTINGS, "temperature": 1.0}


async def test_blocks_and_tools_are_replaced_by_label_and_name(client: Client) -> None:
    agent = await _agent(client)
    [human, persona] = agent["blocks"]
    given = [{"label": "persona", "value": "Chatty."}, {"label": "task", "value": "Count."}]
    updated = await _updated(client, agent["id"], blocks=given, tools=[{"name": "current_time"}])
    [same, new] = updated["blocks"]
    assert same == {**persona, "value": "Chatty."}
    assert (new["label"], new["limit"], new["readOnly"]) == ("task", 5000, False)
    assert await client.ask(NODE, id=human["id"]) == {"node": None}
    assert updated["tools"] == agent["tools"]
    cleared = [{"label": "persona", "value": "", "description": None, "limit": None, "readOnly": None}]
    updated = await _updated(client, agent["id"], blocks=cleared, tools=[{"name": "current_time", "requiresApproval": None}])
    assert updated["blocks"] == [{**persona, "value": "", "description": None, "limit": 5000, "readOnly": False}]
    assert updated["tools"] == [{"name": "current_time", "requiresApproval": False}]


@pytest.mark.parametrize(
    ("given", "extensions"),
    [
        ({"name": None}, {"code": "BAD_USER_INPUT", "argument": "input.name"}),
        ({"name": " "}, {"code": "BAD_USER_INPUT", "argument": "input.name"}),
        ({"model": "none/such"}, {"code": "MODEL_NOT_FOUND", "model": "none/such"}),
        ({"compactionSettings": {"model": "none/such"}}, {"code": "MODEL_NOT_FOUND", "model": "none/such"}),
        ({"compactionSettings": {"clipChars": 0}}, {"code": "BAD_USER_INPUT", "argument": "input.compactionSettings.clipChars"}),
        ({"tools": [{"name": "hammer"}]}, {"code": "UNKNOWN_TOOL", "tool": "hammer"}),
        ({"blocks": [{"label": "persona", "value": "x" * 11}]}, {"code": "BAD_USER_INPUT", "argument": "input.blocks[0].value"}),
        (
            {"blocks": [{"label": "human", "value": "!"}, {"label": "persona", "value": "Terse.", "limit": 5}]},
            {"code": "BAD_USER_INPUT", "argument": "input.blocks[1].value"},
        ),
        ({"blocks": [{"label": "new", "value": "x" * 5001}]}, {"code": "BAD_USER_INPUT", "argument": "input.blocks[0].value"}),
        ({"id": "nonsense"}, {"code": "NOT_FOUND"}),
        pytest.param({"id": new_id(Noun.AGENT)}, {"code": "NOT_FOUND"}, id="unknown"),
    ],
    ids=str,
)
async def test_a_refused_update_changes_nothing(client: Client, given: dict[str, Any], extensions: dict[str, str]) -> None:
    agent = await _agent(client)
    assert await client.refused(UPDATE, input={"id": agent["id"], "description": "other", **given}) == extensions
    assert await _read(client, agent["id"]) == agent


async def test_a_block_is_changed_where_the_request_says_so(client: Client) -> None:
    agent = await _agent(client)
    [_, persona] = agent["blocks"]
    for given, became in (
        ({}, {}),
        ({"value": "Read-only."}, {"value": "Read-only."}),
        ({"value": ""}, {"value": ""}),
        ({"description": None}, {"description": None}),
        ({"limit": None}, {"limit": 5000}),
        ({"readOnly": None}, {"readOnly": False}),
    ):
        persona |= became
        answer = (await client.ask(BLOCK, input={"id": persona["id"], "clientMutationId": "m", **given}))["updateBlock"]
        assert answer == {"block": persona, "clientMutationId": "m"}
    assert (await _read(client, agent["id"]))["blocks"][1] == persona


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"value": None}, "input.value"),
        ({"value": "x" * 11}, "input.value"),
        ({"value": "xx", "limit": 1}, "input.value"),
        ({"limit": 5}, "input.limit"),
        ({"limit": 0}, "input.limit"),
        ({"limit": 1_000_001}, "input.limit"),
        ({"description": "x" * 10_001}, "input.description"),
    ],
    ids=str,
)
async def test_a_refused_change_of_a_block_is_named_and_changes_nothing(client: Client, given: dict[str, Any], argument: str) -> None:
    agent = await _agent(client)
    id_ = agent["blocks"][1]["id"]
    assert await client.refused(BLOCK, input={"id": id_, "readOnly": False, **given}) == {"code": "BAD_USER_INPUT", "argument": argument}
    assert await _read(client, agent["id"]) == agent


async def test_isolated_blocks_are_the_conversations_own(client: Client) -> None:
    agent = await _agent(client)
    made = (await client.ask(CONVERSE, input={"agentId": agent["id"], "isolatedBlockLabels": ["persona"]}))["createConversation"]
    [block] = made["conversation"]["isolatedBlocks"]
    assert (block["label"], block["value"], block["isolated"]) == ("persona", "Terse.", True)
    await client.ask(BLOCK, input={"id": block["id"], "value": "Mine."})
    assert (await _read(client, agent["id"]))["blocks"] == agent["blocks"]
    asked = "query Q($id: ID!) { conversation(id: $id) { isolatedBlocks { value } } node(id: $block) { ... on Block { value } } }"
    asked = asked.replace("$id: ID!", "$id: ID!, $block: ID!")
    seen = await client.ask(asked, id=made["conversation"]["id"], block=block["id"])
    assert seen == {"conversation": {"isolatedBlocks": [{"value": "Mine."}]}, "node": {"value": "Mine."}}


async def test_unknown_and_repeated_labels_are_refused_with_nothing_left_behind(client: Client) -> None:
    agent = await _agent(client)
    for labels, extensions in (
        (["persona", "hammer"], {"code": "UNKNOWN_BLOCK", "block": "hammer"}),
        (["persona", "persona"], {"code": "BAD_USER_INPUT", "argument": "input.isolatedBlockLabels[1]"}),
    ):
        assert await client.refused(CONVERSE, input={"agentId": agent["id"], "isolatedBlockLabels": labels}) == extensions
    assert (await client.ask("{ conversations { totalCount } }"))["conversations"]["totalCount"] == 0


async def test_a_retry_with_other_labels_is_another_request(client: Client) -> None:
    agent = await _agent(client)
    given = {"agentId": agent["id"], "idempotencyKey": "k", "isolatedBlockLabels": ["persona"]}
    first, again = [(await client.ask(CONVERSE, input=given))["createConversation"] for _ in range(2)]
    assert again == first
    refused = await client.refused(CONVERSE, input={**given, "isolatedBlockLabels": ["human"]})
    assert refused == {"code": "IDEMPOTENCY_CONFLICT", "idempotencyKey": "k"}


async def test_of_a_deleted_agent_nothing_is_found_before_anybody_deletes_its_conversations(database: Database) -> None:
    async with rig(database, worker_limits=WorkerLimits(sole=database.is_sqlite, reconcile_s=3600)) as quiet:
        asking = Client(quiet)
        agent = await _agent(asking)
        made = await asking.ask(CONVERSE, input={"agentId": agent["id"], "isolatedBlockLabels": ["persona"]})
        conversation = made["createConversation"]["conversation"]
        sent = await quiet.say(conversation["id"], "hello")
        answer = await asking.ask(DELETE, input={"id": agent["id"], "clientMutationId": "m"})
        assert answer["deleteAgent"] == {"deletedAgentId": agent["id"], "clientMutationId": "m"}
        isolated = conversation["isolatedBlocks"][0]["id"]
        for id_ in (agent["id"], agent["blocks"][0]["id"], isolated, conversation["id"], sent.run.id, sent.messages[0].id):
            assert await asking.ask(NODE, id=id_) == {"node": None}
        lists = await asking.ask("{ agents { totalCount nodes { id } } conversations { totalCount nodes { id } } }")
        assert lists == {"agents": {"totalCount": 0, "nodes": []}, "conversations": {"totalCount": 0, "nodes": []}}
        not_found = {"code": "NOT_FOUND"}
        said = {"conversationId": conversation["id"], "messages": [{"text": "hello"}]}
        send = "mutation M($input: SendMessageInput!) { sendMessage(input: $input) { run { id } } }"
        for document, given in (
            (UPDATE, {"id": agent["id"], "name": "Bea"}),
            (DELETE, {"id": agent["id"]}),
            (BLOCK, {"id": agent["blocks"][0]["id"], "value": "x"}),
            (BLOCK, {"id": isolated, "value": "x"}),
            (CONVERSE, {"agentId": agent["id"]}),
            (send, said),
        ):
            assert await asking.refused(document, input=given) == not_found
        for field, id_ in (("agent", agent["id"]), ("conversation", conversation["id"]), ("run", sent.run.id)):
            assert await asking.refused(f"query Q($id: ID!) {{ {field}(id: $id) {{ id }} }}", id=id_) == not_found
        for field, id_ in (("conversationEvents(conversationId: $id", conversation["id"]), ("runEvents(runId: $id", sent.run.id)):
            error = await asking.not_followed(f"subscription S($id: ID!) {{ {field}) {{ sequence }} }}", id=id_)
            assert error.extensions == not_found


async def test_who_follows_a_conversation_of_a_deleted_agent_is_told_that_it_is_gone(client: Client) -> None:
    agent = await _agent(client)
    conversation = (await client.ask(CONVERSE, input={"agentId": agent["id"]}))["createConversation"]["conversation"]
    document = """subscription S($id: ID!) { conversationEvents(conversationId: $id) {
        payload { __typename ... on StreamReset { reason } } } }"""
    seen: list[dict[str, Any]] = []
    async with aclosing(client.follow(document, id=conversation["id"])) as followed:
        async for event in followed:
            seen.append(event["payload"])
            if len(seen) == 1:
                await client.ask(DELETE, input={"id": agent["id"]})
    assert seen == [{"__typename": "CaughtUp"}, {"__typename": "StreamReset", "reason": "CONVERSATION_DELETED"}]


async def test_another_tenant_changes_and_sees_nothing(client: Client, stranger: Client) -> None:
    agent = await _agent(client)
    made = await client.ask(CONVERSE, input={"agentId": agent["id"], "isolatedBlockLabels": ["persona"]})
    [isolated] = made["createConversation"]["conversation"]["isolatedBlocks"]
    for document, given in (
        (UPDATE, {"id": agent["id"], "name": "Mine"}),
        (DELETE, {"id": agent["id"]}),
        (BLOCK, {"id": agent["blocks"][0]["id"], "value": "mine"}),
        (BLOCK, {"id": isolated["id"], "value": "mine"}),
        (CONVERSE, {"agentId": agent["id"], "isolatedBlockLabels": ["persona"]}),
    ):
        assert await stranger.refused(document, input=given) == {"code": "NOT_FOUND"}
    assert await stranger.ask(NODE, id=isolated["id"]) == {"node": None}
    assert await _read(client, agent["id"]) == agent


async def test_isolated_blocks_of_a_page_are_read_together(client: Client) -> None:
    agent = await _agent(client)

    async def cost(n: int) -> int:
        for _ in range(n):
            await client.ask(CONVERSE, input={"agentId": agent["id"], "isolatedBlockLabels": ["persona", "human"]})
        with counted_statements() as seen:
            page = await client.ask("{ conversations { nodes { isolatedBlocks { label } } } }")
        assert all(node == {"isolatedBlocks": [{"label": "human"}, {"label": "persona"}]} for node in page["conversations"]["nodes"])
        return len(seen)

    assert await cost(1) == await cost(4)
