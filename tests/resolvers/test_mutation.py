"""Mutations on a running engine, on both databases."""

from typing import Any

import pytest

from tests.resolvers.asking import Client
from vocabulary.ids import Noun, new_id

CREATE_AGENT = """mutation M($input: CreateAgentInput!) { createAgent(input: $input) {
    agent { id name model blocks { label } } agentEdge { cursor node { id } } clientMutationId } }"""
CREATE_CONVERSATION = """mutation M($input: CreateConversationInput!) { createConversation(input: $input) {
    conversation { id summary status headSequence messages { nodes { __typename text } } }
    conversationEdge { cursor node { id } } clientMutationId } }"""
SEND = """mutation M($input: SendMessageInput!) { sendMessage(input: $input) {
    run { id status stopReason model groupId messages { nodes { id } } }
    conversation { id status headSequence }
    messages { __typename id status text ordinal run { id status } } messageEdges { cursor node { id } }
    appliedThroughSequence deduplicated clientMutationId } }"""


async def _conversation(client: Client) -> str:
    agent = (await client.ask(CREATE_AGENT, input={"name": "Ann"}))["createAgent"]["agent"]["id"]
    made = await client.ask(CREATE_CONVERSATION, input={"agentId": agent})
    return made["createConversation"]["conversation"]["id"]


async def test_an_agent_is_created_with_an_edge_of_the_list(client: Client) -> None:
    given = {"name": "Ann", "blocks": [{"label": "human", "value": "?"}], "clientMutationId": "m"}
    made = (await client.ask(CREATE_AGENT, input=given))["createAgent"]
    assert (made["agent"]["name"], made["agent"]["model"], made["agent"]["blocks"]) == ("Ann", "demo/echo", [{"label": "human"}])
    listed = await client.ask("{ agents { edges { cursor node { id } } } }")
    assert listed["agents"]["edges"] == [made["agentEdge"]]
    assert made["clientMutationId"] == "m"


async def test_a_conversation_is_created_with_an_edge_of_the_list(client: Client) -> None:
    agent = (await client.ask(CREATE_AGENT, input={"name": "Ann", "instructions": "Be kind."}))["createAgent"]["agent"]["id"]
    made = (await client.ask(CREATE_CONVERSATION, input={"agentId": agent, "summary": "s", "clientMutationId": "m"}))["createConversation"]
    assert (made["conversation"]["summary"], made["conversation"]["status"], made["clientMutationId"]) == ("s", "IDLE", "m")
    assert [message["__typename"] for message in made["conversation"]["messages"]["nodes"]] == ["SystemMessage"]
    listed = await client.ask("{ conversations { edges { cursor node { id } } } }")
    assert listed["conversations"]["edges"] == [made["conversationEdge"]]


async def test_a_retried_creation_gives_the_same_conversation(client: Client) -> None:
    agent = (await client.ask(CREATE_AGENT, input={"name": "Ann"}))["createAgent"]["agent"]["id"]
    given = {"agentId": agent, "summary": "s", "idempotencyKey": "k"}
    first, again = [(await client.ask(CREATE_CONVERSATION, input=given))["createConversation"] for _ in range(2)]
    assert first["conversation"]["id"] == again["conversation"]["id"]
    assert await client.refused(CREATE_CONVERSATION, input={**given, "summary": "t"}) == {
        "code": "IDEMPOTENCY_CONFLICT",
        "idempotencyKey": "k",
    }


async def test_sending_and_waiting_gives_the_whole_answer(client: Client) -> None:
    id_ = await _conversation(client)
    given = {"conversationId": id_, "messages": [{"text": "hello"}], "waitSeconds": 30, "groupId": "g", "clientMutationId": "m"}
    sent = (await client.ask(SEND, input=given))["sendMessage"]
    assert (sent["run"]["status"], sent["run"]["stopReason"], sent["run"]["groupId"]) == ("COMPLETED", "END_TURN", "g")
    assert [message["__typename"] for message in sent["messages"]] == ["UserMessage", "AssistantMessage"]
    assert "hello" in sent["messages"][1]["text"]
    assert [edge["node"]["id"] for edge in sent["messageEdges"]] == [message["id"] for message in sent["messages"]]
    history = await client.ask("query Q($id: ID!) { conversation(id: $id) { messages(last: 2) { edges { cursor node { id } } } } }", id=id_)
    assert history["conversation"]["messages"]["edges"] == sent["messageEdges"]
    assert (sent["conversation"]["status"], sent["deduplicated"], sent["clientMutationId"]) == ("IDLE", False, "m")
    assert 0 < sent["appliedThroughSequence"] < sent["conversation"]["headSequence"]


async def test_sending_without_waiting_gives_the_input_alone(client: Client) -> None:
    id_ = await _conversation(client)
    sent = (await client.ask(SEND, input={"conversationId": id_, "messages": [{"text": "a"}, {"text": "b", "role": "SYSTEM"}]}))[
        "sendMessage"
    ]
    assert [(message["__typename"], message["text"]) for message in sent["messages"]] == [("UserMessage", "a"), ("SystemMessage", "b")]
    assert [message["ordinal"] for message in sent["messages"]] == [2, 3]


async def test_a_retried_send_gives_the_first_run_again(client: Client) -> None:
    id_ = await _conversation(client)
    given: dict[str, Any] = {"conversationId": id_, "messages": [{"text": "hello"}], "idempotencyKey": "k"}
    first = (await client.ask(SEND, input={**given, "waitSeconds": 30}))["sendMessage"]
    again = (await client.ask(SEND, input={**given, "maxSteps": None, "clientMutationId": "x"}))["sendMessage"]
    assert (first["deduplicated"], again["deduplicated"]) == (False, True)
    assert again["run"] == first["run"]
    assert again["messages"] == first["messages"][:1]
    assert again["appliedThroughSequence"] == first["appliedThroughSequence"]
    refused = await client.refused(SEND, input={**given, "messages": [{"text": "other"}]})
    assert refused == {"code": "IDEMPOTENCY_CONFLICT", "idempotencyKey": "k"}


async def test_mutations_of_one_request_see_each_other(client: Client) -> None:
    id_ = await _conversation(client)
    document = """mutation M($a: SendMessageInput!) {
        one: sendMessage(input: $a) { conversation { headSequence } } two: sendMessage(input: $a) { conversation { headSequence } } }"""
    sent = await client.ask(document, a={"conversationId": id_, "messages": [{"text": "hello"}], "waitSeconds": 30})
    assert sent["one"]["conversation"]["headSequence"] < sent["two"]["conversation"]["headSequence"]


async def test_one_refusal_leaves_its_siblings_alone(client: Client) -> None:
    document = (
        """mutation { bad: createAgent(input: {name: ""}) { agent { id } } good: createAgent(input: {name: "Ann"}) { agent { name } } }"""
    )
    result = await client.run(document)
    assert result.data == {"bad": None, "good": {"agent": {"name": "Ann"}}}
    (error,) = result.errors or []
    assert (error.path, error.extensions) == (["bad"], {"code": "BAD_USER_INPUT", "argument": "input.name"})


SAID = [{"text": "hello"}]


@pytest.mark.parametrize(
    ("given", "extensions"),
    [
        ({"messages": []}, {"code": "BAD_USER_INPUT", "argument": "input.messages"}),
        ({"messages": [{"text": ""}]}, {"code": "BAD_USER_INPUT", "argument": "input.messages[0].text"}),
        ({"messages": [*SAID, {}]}, {"code": "BAD_USER_INPUT", "argument": "input.messages[1].text"}),
        ({"messages": SAID, "waitSeconds": 601}, {"code": "BAD_USER_INPUT", "argument": "input.waitSeconds"}),
        ({"messages": SAID, "overrideModel": "none/such"}, {"code": "MODEL_NOT_FOUND", "model": "none/such"}),
        ({"messages": SAID, "conversationId": "conv-00000000-0000-7000-8000-000000000000"}, {"code": "NOT_FOUND"}),
        ({"messages": SAID, "conversationId": "nonsense"}, {"code": "NOT_FOUND"}),
        ({"messages": [{"content": [{"text": "a", "image": {"url": "https://x"}}]}]}, {"code": "BAD_USER_INPUT"}),
        ({"messages": [{"content": [{"text": None}]}]}, {"code": "BAD_USER_INPUT"}),
        ({"messages": SAID, "maxSteps": 10**12}, {"code": "BAD_USER_INPUT"}),
    ],
    ids=str,
)
async def test_what_is_refused_stores_nothing(given: dict[str, Any], extensions: dict[str, str], client: Client) -> None:
    id_ = await _conversation(client)
    assert await client.refused(SEND, input={"conversationId": id_, **given}) == extensions
    after = await client.ask(
        "query Q($id: ID!) { conversation(id: $id) { headSequence runs { totalCount } messages { totalCount } } }", id=id_
    )
    assert after["conversation"] == {"headSequence": 1, "runs": {"totalCount": 0}, "messages": {"totalCount": 1}}


async def test_what_does_not_exist_creates_nothing(client: Client, stranger: Client) -> None:
    assert await client.refused(CREATE_AGENT, input={"name": "Ann", "model": "none/such"}) == {
        "code": "MODEL_NOT_FOUND",
        "model": "none/such",
    }
    assert await client.refused(CREATE_AGENT, input={"name": "Ann", "tools": [{"name": "hammer"}]}) == {
        "code": "UNKNOWN_TOOL",
        "tool": "hammer",
    }
    assert (await client.ask("{ agents { totalCount } }"))["agents"]["totalCount"] == 0
    assert await client.refused(CREATE_CONVERSATION, input={"agentId": new_id(Noun.AGENT)}) == {"code": "NOT_FOUND"}
    id_ = await _conversation(client)
    assert await stranger.refused(SEND, input={"conversationId": id_, "messages": SAID}) == {"code": "NOT_FOUND"}
