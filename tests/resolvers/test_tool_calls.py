"""Client tools and approvals through the API, on both databases, with the model that needs no key."""

import asyncio
import json
from typing import Any

import pytest

from tests.resolvers.asking import Client, counted_statements

CREATE_AGENT = "mutation M($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }"
CREATE_CONVERSATION = "mutation M($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id } } }"
SEND = """mutation M($input: SendMessageInput!) { sendMessage(input: $input) {
    run { stopReason } conversation { status pendingToolCalls { id name state source arguments } } messages { __typename } } }"""
RESPOND = """mutation M($input: RespondToToolCallsInput!) { respondToToolCalls(input: $input) {
    run { id status stopReason } conversation { status pendingToolCalls { id } }
    messages { __typename text ... on ApprovalResponseMessage { decisions { toolCallId approved reason } }
        ... on ToolReturnMessage { toolReturns { toolCallId name status output } } }
    messageEdges { node { id } } appliedThroughSequence deduplicated clientMutationId } }"""
CANCEL_RUN = """mutation M($input: CancelRunInput!) { cancelRun(input: $input) {
    result { outcome run { id status stopReason conversation { status pendingToolCalls { id } } } } } }"""
STATE = """query Q($id: ID!) { conversation(id: $id) { headSequence status pendingToolCalls { id }
    runs { totalCount } messages { nodes { __typename ... on ApprovalRequestMessage { toolCalls { id state } } } } } }"""
RUNS = """query Q($id: ID!) { conversation(id: $id) { runs { nodes { id } } messages { nodes { __typename
    ... on ToolReturnMessage { toolReturns { toolCallId status output } } } } } }"""

CAMERA = {"name": "camera", "description": "Takes a picture.", "parameters": {"type": "object"}}


async def _conversation(client: Client) -> str:
    tools = [{"name": "current_time", "requiresApproval": True}, {"name": "conversation_search"}]
    agent = (await client.ask(CREATE_AGENT, input={"name": "Ann", "tools": tools}))["createAgent"]["agent"]["id"]
    return (await client.ask(CREATE_CONVERSATION, input={"agentId": agent}))["createConversation"]["conversation"]["id"]


async def _asked(client: Client, id_: str, *commands: str, **more: object) -> list[str]:
    """The ids of the calls for which the conversation then waits."""
    text = " ".join(f"/tool {command}" for command in commands)
    sent = await client.ask(SEND, input={"conversationId": id_, "messages": [{"text": text}], "waitSeconds": 30, **more})
    assert sent["sendMessage"]["run"]["stopReason"] == "REQUIRES_APPROVAL"
    assert sent["sendMessage"]["conversation"]["status"] == "AWAITING_INPUT"
    return [call["id"] for call in sent["sendMessage"]["conversation"]["pendingToolCalls"]]


def _answers(id_: str, *decisions: tuple[str, dict[str, Any]], **more: object) -> dict[str, Any]:
    responses = [{"toolCallId": call_id, "decision": decision} for call_id, decision in decisions]
    return {"conversationId": id_, "responses": responses, **more}


async def test_a_call_is_approved_and_the_answer_comes(client: Client) -> None:
    id_ = await _conversation(client)
    [call_id] = await _asked(client, id_, "current_time")
    given = _answers(id_, (call_id, {"approve": {"reason": "fine"}}), waitSeconds=30, clientMutationId="m")
    done = (await client.ask(RESPOND, input=given))["respondToToolCalls"]
    assert (done["run"]["stopReason"], done["conversation"]) == ("END_TURN", {"status": "IDLE", "pendingToolCalls": []})
    response, returned, said = done["messages"]
    assert response["decisions"] == [{"toolCallId": call_id, "approved": True, "reason": "fine"}]
    assert [(item["toolCallId"], item["name"], item["status"]) for item in returned["toolReturns"]] == [
        (call_id, "current_time", "SUCCESS")
    ]
    assert said["text"].startswith("The tool current_time returned:")
    assert (len(done["messageEdges"]), done["deduplicated"], done["clientMutationId"]) == (3, False, "m")
    history = (await client.ask(STATE, id=id_))["conversation"]["messages"]["nodes"]
    [request] = [message for message in history if message["__typename"] == "ApprovalRequestMessage"]
    assert request["toolCalls"] == [{"id": call_id, "state": "COMPLETED"}]


async def test_tools_of_the_client_and_of_the_server_are_answered_together(client: Client) -> None:
    id_ = await _conversation(client)
    calls = await _asked(client, id_, "camera", "current_time", 'conversation_search {"query": "x"}', clientTools=[CAMERA])
    assert len(calls) == 2
    decisions = [(calls[0], {"result": {"output": "click"}}), (calls[1], {"deny": {"reason": "late"}})]
    done = (await client.ask(RESPOND, input=_answers(id_, *decisions, waitSeconds=30)))["respondToToolCalls"]
    [returned] = [message for message in done["messages"] if message["__typename"] == "ToolReturnMessage"]
    assert [(item["name"], item["status"], item["output"]) for item in returned["toolReturns"]] == [
        ("camera", "SUCCESS", "click"),
        ("current_time", "ERROR", "The call was denied: late"),
        ("conversation_search", "SUCCESS", "No earlier message contains 'x'."),
    ]


async def test_the_states_of_a_call_are_seen_in_their_order(client: Client) -> None:
    id_ = await _conversation(client)
    [call_id] = await _asked(client, id_, "current_time")
    document = """subscription S($id: ID!) { conversationEvents(conversationId: $id) { payload { __typename
        ... on ToolCallChanged { toolCall { id state } } ... on RunChanged { status } } } }"""
    seen: list[str] = []
    answering = None
    async with asyncio.timeout(20):
        async for item in client.follow(document, id=id_):
            payload = item["payload"]
            if payload["__typename"] == "CaughtUp":
                answering = asyncio.create_task(client.ask(RESPOND, input=_answers(id_, (call_id, {"approve": {}}))))
            if payload["__typename"] == "ToolCallChanged":
                seen.append(payload["toolCall"]["state"])
            if payload.get("status") == "COMPLETED":
                break
    assert answering is not None
    await answering
    assert seen == ["PENDING", "RUNNING", "COMPLETED"]


async def test_to_cancel_the_run_that_asked_denies_its_calls_once(client: Client, stranger: Client) -> None:
    id_ = await _conversation(client)
    calls = await _asked(client, id_, "current_time", "camera", clientTools=[CAMERA])
    [run] = (await client.ask(RUNS, id=id_))["conversation"]["runs"]["nodes"]
    assert await stranger.refused(CANCEL_RUN, input={"id": run["id"]}) == {"code": "NOT_FOUND"}
    both = await asyncio.gather(*(client.ask(CANCEL_RUN, input={"id": run["id"]}) for _ in range(2)))
    results = [answered["cancelRun"]["result"] for answered in both]
    assert sorted(result["outcome"] for result in results) == ["ALREADY_ENDED", "CANCELLED"]
    assert [result["run"] for result in results] == [
        {
            "id": run["id"],
            "status": "COMPLETED",
            "stopReason": "REQUIRES_APPROVAL",
            "conversation": {"status": "IDLE", "pendingToolCalls": []},
        }
    ] * 2
    history = (await client.ask(RUNS, id=id_))["conversation"]["messages"]["nodes"]
    [returned] = [message for message in history if message["__typename"] == "ToolReturnMessage"]
    denied = {"status": "ERROR", "output": "The call was denied: The run was cancelled."}
    assert returned["toolReturns"] == [{"toolCallId": call_id, **denied} for call_id in calls]
    late = _answers(id_, (calls[0], {"approve": {}}), (calls[1], {"result": {"output": "click"}}))
    assert await client.refused(RESPOND, input=late) == {"code": "NO_PENDING_TOOL_CALLS"}
    sent = await client.ask(SEND, input={"conversationId": id_, "messages": [{"text": "Never mind"}], "waitSeconds": 30})
    assert sent["sendMessage"]["run"]["stopReason"] == "END_TURN"


async def test_a_retried_answer_gives_the_first_run_again(client: Client) -> None:
    id_ = await _conversation(client)
    [call_id] = await _asked(client, id_, "current_time")
    given = _answers(id_, (call_id, {"approve": {}}), idempotencyKey="k")
    first = (await client.ask(RESPOND, input={**given, "waitSeconds": 30}))["respondToToolCalls"]
    again = (await client.ask(RESPOND, input=given))["respondToToolCalls"]
    assert (first["deduplicated"], again["deduplicated"]) == (False, True)
    assert (again["run"], again["messages"]) == (first["run"], first["messages"][:1])
    other = _answers(id_, (call_id, {"deny": {}}), idempotencyKey="k")
    assert await client.refused(RESPOND, input=other) == {"code": "IDEMPOTENCY_CONFLICT", "idempotencyKey": "k"}


async def test_what_does_not_answer_is_refused_and_changes_nothing(client: Client, stranger: Client) -> None:
    id_ = await _conversation(client)
    calls = await _asked(client, id_, "current_time", "camera", clientTools=[CAMERA])
    before = await client.ask(STATE, id=id_)
    time, camera = calls
    approve: dict[str, Any] = {"approve": {}}
    result = {"result": {"output": "x"}}
    bad = "BAD_USER_INPUT"
    for given, extensions in [
        (_answers(id_, (time, approve)), {"code": "TOOL_CALL_MISMATCH", "missingToolCallIds": [camera], "unknownToolCallIds": []}),
        (
            _answers(id_, (time, approve), (camera, result), ("toolcall-\0x", approve)),
            {"code": "TOOL_CALL_MISMATCH", "missingToolCallIds": [], "unknownToolCallIds": ["toolcall-\ufffdx"]},
        ),
        (_answers(id_, (camera, approve), (time, approve)), {"code": bad, "argument": "input.responses[0].decision.approve"}),
        (_answers(id_, (camera, result), (time, result)), {"code": bad, "argument": "input.responses[1].decision.result"}),
        (_answers(id_, (time, approve), (time, approve)), {"code": bad, "argument": "input.responses[1].toolCallId"}),
        (_answers(id_), {"code": bad, "argument": "input.responses"}),
        (_answers(id_, (time, approve), waitSeconds=601), {"code": bad, "argument": "input.waitSeconds"}),
        (_answers(id_, (time, {"deny": {"reason": "x" * 10_001}})), {"code": bad, "argument": "input.responses[0].decision.deny.reason"}),
        (_answers("nonsense", (time, approve)), {"code": "NOT_FOUND"}),
        (_answers(id_, (time, {"approve": {}, "deny": {}})), {"code": bad}),
        (_answers(id_, (time, {})), {"code": bad}),
    ]:
        assert await client.refused(RESPOND, input=given) == extensions
    assert await stranger.refused(RESPOND, input=_answers(id_, (time, approve))) == {"code": "NOT_FOUND"}
    refused = await client.refused(SEND, input={"conversationId": id_, "messages": [{"text": "hello"}]})
    assert refused == {"code": "PENDING_APPROVAL", "toolCallIds": calls}
    assert await client.ask(STATE, id=id_) == before
    await client.ask(RESPOND, input=_answers(id_, (camera, result), (time, approve), waitSeconds=30))
    assert await client.refused(RESPOND, input=_answers(id_, (time, approve))) == {"code": "NO_PENDING_TOOL_CALLS"}


@pytest.mark.parametrize(
    ("tools", "argument"),
    [
        ([{**CAMERA, "name": "a b"}], "input.clientTools[0].name"),
        ([{**CAMERA, "name": ""}], "input.clientTools[0].name"),
        ([CAMERA, CAMERA], "input.clientTools[1].name"),
        ([{**CAMERA, "description": "x" * 10_001}], "input.clientTools[0].description"),
        ([{**CAMERA, "parameters": 1}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "parameters": {}}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "parameters": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}], "input.clientTools[0].parameters"),
        ([CAMERA, {**CAMERA, "name": "b", "parameters": {"type": "object", "$ref": "#"}}], "input.clientTools[1].parameters"),
        ([{**CAMERA, "parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "parameters": {"type": "object", "default": json.loads("[" * 900 + "]" * 900)}}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "parameters": {"type": "object", "title": "x" * 70_000}}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "parameters": {"type": "object", "$id": "http://[::1"}}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "parameters": {"type": "object", "x": 5, "$ref": "#/x/5"}}], "input.clientTools[0].parameters"),
        ([{**CAMERA, "name": f"t{n}"} for n in range(101)], "input.clientTools"),
    ],
    ids=[
        "space",
        "empty",
        "twice",
        "long",
        "number",
        "no object",
        "no schema",
        "endless",
        "dangling",
        "deep",
        "large",
        "address",
        "nowhere",
        "many",
    ],
)
async def test_tools_that_nobody_could_call_are_refused(client: Client, tools: list[dict[str, Any]], argument: str) -> None:
    id_ = await _conversation(client)
    given = {"conversationId": id_, "messages": [{"text": "hello"}], "clientTools": tools}
    assert await client.refused(SEND, input=given) == {"code": "BAD_USER_INPUT", "argument": argument}
    assert (await client.ask(STATE, id=id_))["conversation"]["runs"]["totalCount"] == 0


INLINE = """mutation M($id: ID!%s) { sendMessage(input: { conversationId: $id, messages: [{ text: "hello" }],
    clientTools: [{ name: "t", description: "", parameters: %s }] }) { run { id } } }"""


def _inline(literal: str) -> str:
    return INLINE % (", $v: JSON" if "$v" in literal else "", literal)


@pytest.mark.parametrize(
    "literal",
    [
        '{ type: "object", maximum: 99999999999999999999 }',
        '{ type: "object", maximum: -99999999999999999999 }',
        '{ type: "object", maximum: 1e400 }',
        '{ type: "object", required: [$v] }',
    ],
)
async def test_a_literal_that_json_or_a_schema_cannot_hold_is_refused_by_name(client: Client, literal: str) -> None:
    id_ = await _conversation(client)
    refusal = {"code": "BAD_USER_INPUT", "argument": "input.clientTools[0].parameters"}
    assert await client.refused(_inline(literal), id=id_) == refusal


async def test_a_variable_that_is_not_given_is_not_in_a_literal(client: Client) -> None:
    document = _inline('{ type: "object", properties: { a: $v, b: {} } }')
    id_ = await _conversation(client)
    await client.ask(document, id=id_)
    await client.ask(document, id=id_, v={"type": "string"})
    assert (await client.refused(document, id=id_, v=None))["code"] == "BAD_USER_INPUT"


async def test_arguments_that_take_too_much_work_to_check_are_an_error_return(client: Client) -> None:
    id_ = await _conversation(client)
    doubling = [{"properties": {"a": {"$ref": "#"}}, "required": [other]} for other in "bc"]
    tool = {**CAMERA, "parameters": {"type": "object", "anyOf": doubling}}
    text = "/tool camera " + '{"a": ' * 40 + "1" + "}" * 40
    given = {"conversationId": id_, "messages": [{"text": text}], "clientTools": [tool], "waitSeconds": 30}
    await client.ask(SEND, input=given)
    nodes = (await client.ask(RUNS, id=id_))["conversation"]["messages"]["nodes"]
    (returned,) = next(node["toolReturns"] for node in nodes if "toolReturns" in node)
    assert (returned["status"], returned["output"][:34]) == ("ERROR", "The arguments cannot be checked: c")


async def test_arguments_too_deep_for_any_answer_are_shown_as_text_alone(client: Client) -> None:
    id_ = await _conversation(client)
    arguments = '{"query": ' + "[" * 300 + "]" * 300 + "}"
    given = {"conversationId": id_, "messages": [{"text": f"/tool conversation_search {arguments}"}], "waitSeconds": 30}
    await client.ask(SEND, input=given)
    document = """query Q($id: ID!) { conversation(id: $id) { messages(filter: { types: [TOOL_CALL, TOOL_RETURN] }) {
        nodes { ... on ToolCallMessage { toolCalls { arguments argumentsText state } }
            ... on ToolReturnMessage { toolReturns { output } } } } } }"""
    called, returned = (await client.ask(document, id=id_))["conversation"]["messages"]["nodes"]
    assert called["toolCalls"] == [{"arguments": None, "argumentsText": arguments, "state": "FAILED"}]
    assert returned["toolReturns"] == [{"output": "The arguments cannot be read as JSON: nested deeper than 64 levels."}]


async def test_pending_calls_of_many_conversations_cost_one_statement(client: Client) -> None:
    document = "{ conversations { nodes { id pendingToolCalls { name } } } }"
    counts: list[int] = []
    for _ in range(2):
        await _asked(client, await _conversation(client), "current_time")
        with counted_statements() as statements:
            found = (await client.ask(document))["conversations"]["nodes"]
        counts.append(len(statements))
        assert all(conversation["pendingToolCalls"] == [{"name": "current_time"}] for conversation in found)
    assert counts[0] == counts[1]
