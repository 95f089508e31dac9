"""compactConversation, Conversation.context and the events of a compaction, as a client asks for them, on both databases."""

from contextlib import aclosing
from typing import Any

import pytest

from tests.resolvers.asking import Client, counted_statements
from tests.rig import Rig
from vocabulary.conversations import Conversation
from vocabulary.ids import Noun, new_id

COMPACT = """mutation M($input: CompactConversationInput!) { compactConversation(input: $input) {
    conversation { id status context { messageCount } } deduplicated clientMutationId
    run { id kind status model stopReason error { type } steps { kind } }
    summary messagesBefore messagesAfter
    summaryMessage { id type inContext text stats { trigger mode messagesBefore messagesAfter tokensBefore tokensAfter } } } }"""
CONTEXT = """query Q($id: ID!) { conversation(id: $id) {
    context { messages { id type text } messageCount tokenEstimate tokenLimit }
    messages(filter: {inContext: true}) { nodes { id } } } }"""
FOLLOW = """subscription S($id: ID!) { conversationEvents(conversationId: $id, after: 0) { payload { __typename
    ... on ContextCompacted { firstKeptMessageId tailOrdinal stats { messagesAfter } summaryMessage { id text inContext } } } } }"""

SETTINGS = {"mode": "ALL", "clipChars": 40}


@pytest.fixture
async def talk(parley: Rig) -> Conversation:
    conversation = await parley.conversation()
    for number in range(4):
        await parley.ended((await parley.say(conversation.id, f"Number {number}. " + "A word to remember. " * 9)).run)
    return conversation


async def _compacted(client: Client, id_: str, **more: object) -> dict[str, Any]:
    return (await client.ask(COMPACT, input={"id": id_, "settings": SETTINGS, **more}))["compactConversation"]


async def test_a_waited_answer_carries_the_summary_its_message_and_the_counts(client: Client, talk: Conversation) -> None:
    done = await _compacted(client, talk.id, clientMutationId="m")
    assert (done["run"]["kind"], done["run"]["status"], done["run"]["stopReason"], done["run"]["error"]) == (
        "COMPACTION", "COMPLETED", "END_TURN", None,
    )  # fmt: skip
    assert (done["run"]["model"], done["run"]["steps"]) == ("demo/echo", [{"kind": "COMPACTION"}])
    assert (done["messagesBefore"], done["messagesAfter"], done["deduplicated"], done["clientMutationId"]) == (9, 2, False, "m")
    assert done["summary"] == done["summaryMessage"]["text"]
    assert 0 < len(done["summary"]) <= 40
    assert (done["summaryMessage"]["type"], done["summaryMessage"]["inContext"]) == ("SUMMARY", True)
    stats = done["summaryMessage"]["stats"]
    assert (stats["trigger"], stats["mode"], stats["messagesBefore"], stats["messagesAfter"]) == ("MANUAL", "ALL", 9, 2)
    assert stats["tokensAfter"] < stats["tokensBefore"]
    assert done["conversation"] == {"id": talk.id, "status": "IDLE", "context": {"messageCount": 2}}


async def test_null_clears_for_one_compaction_what_the_agent_has_set(client: Client, parley: Rig, talk: Conversation) -> None:
    given = {"id": talk.agent_id, "compactionSettings": {"mode": "ALL", "clipChars": 5}}
    await client.ask("mutation M($input: UpdateAgentInput!) { updateAgent(input: $input) { agent { id } } }", input=given)
    for settings, is_clipped in (({}, True), ({"clipChars": None}, False)):
        done = (await client.ask(COMPACT, input={"id": talk.id, "settings": settings}))["compactConversation"]
        assert (done["run"]["status"], len(done["summary"]) <= 5) == ("COMPLETED", is_clipped)
        await parley.ended((await parley.say(talk.id, "And on. " * 40)).run)


async def test_an_answer_that_was_not_waited_for_carries_the_run_alone(client: Client, talk: Conversation) -> None:
    asked = await _compacted(client, talk.id, waitSeconds=0, idempotencyKey="k")
    is_over = asked["run"]["status"] == "COMPLETED"
    assert [asked[name] is not None for name in ("summary", "summaryMessage", "messagesBefore", "messagesAfter")] == [is_over] * 4
    again = await _compacted(client, talk.id, idempotencyKey="k")
    assert (again["run"]["id"], again["run"]["status"], again["deduplicated"]) == (asked["run"]["id"], "COMPLETED", True)
    assert again["messagesAfter"] == 2
    refused = await client.refused(COMPACT, input={"id": talk.id, "settings": {"mode": "SLIDING_WINDOW"}, "idempotencyKey": "k"})
    assert refused["code"] == "IDEMPOTENCY_CONFLICT"


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"waitSeconds": 601}, "input.waitSeconds"),
        ({"waitSeconds": -1}, "input.waitSeconds"),
        ({"settings": {"clipChars": 0}}, "input.settings.clipChars"),
        ({"settings": {"slidingWindowFraction": 1.0}}, "input.settings.slidingWindowFraction"),
        ({"settings": {"modelSettings": {"temperature": 3.0}}}, "input.settings.modelSettings.temperature"),
        ({"idempotencyKey": ""}, "input.idempotencyKey"),
    ],
)
async def test_what_lies_outside_its_range_is_refused_by_name(
    client: Client, talk: Conversation, given: dict[str, object], argument: str
) -> None:
    assert await client.refused(COMPACT, input={"id": talk.id, **given}) == {"code": "BAD_USER_INPUT", "argument": argument}


async def test_refusals_have_their_codes(client: Client, stranger: Client, parley: Rig, talk: Conversation) -> None:
    fresh = await parley.conversation()
    assert (await client.refused(COMPACT, input={"id": fresh.id}))["code"] == "NOTHING_TO_COMPACT"
    assert (await client.refused(COMPACT, input={"id": talk.id, "settings": {"model": "no/such"}}))["code"] == "MODEL_NOT_FOUND"
    for asking, id_ in ((stranger, talk.id), (client, new_id(Noun.CONVERSATION)), (client, "nonsense")):
        assert (await asking.refused(COMPACT, input={"id": id_}))["code"] == "NOT_FOUND"


async def test_the_context_is_what_the_model_would_be_shown(client: Client, talk: Conversation) -> None:
    before = (await client.ask(CONTEXT, id=talk.id))["conversation"]
    assert [message["type"] for message in before["context"]["messages"]] == ["SYSTEM", *["USER", "ASSISTANT"] * 4]
    assert before["context"]["messageCount"] == 9
    assert before["context"]["tokenLimit"] == 32_768
    await _compacted(client, talk.id)
    after = (await client.ask(CONTEXT, id=talk.id))["conversation"]
    assert [message["type"] for message in after["context"]["messages"]] == ["SYSTEM", "SUMMARY"]
    assert [node["id"] for node in after["messages"]["nodes"]] == [message["id"] for message in after["context"]["messages"]]
    assert 0 < after["context"]["tokenEstimate"] < before["context"]["tokenEstimate"]


async def test_contexts_of_many_conversations_cost_as_many_statements_as_that_of_one(client: Client, parley: Rig) -> None:
    document = "query Q($n: Int!) { conversations(first: $n) { nodes { context { messages { id } tokenEstimate tokenLimit } } } }"
    for _ in range(3):
        conversation = await parley.conversation()
        await parley.ended((await parley.say(conversation.id, "Hi")).run)
    costs: list[int] = []
    for n in (1, 3):
        with counted_statements() as statements:
            found = await client.ask(document, n=n)
        assert len(found["conversations"]["nodes"]) == n
        costs.append(len(statements))
    assert costs[0] == costs[1]


async def test_a_follower_is_told_what_is_in_context_from_now_on(client: Client, talk: Conversation) -> None:
    done = await _compacted(client, talk.id)
    told: list[dict[str, Any]] = []
    async with aclosing(client.follow(FOLLOW, id=talk.id)) as items:
        async for item in items:
            if item["payload"]["__typename"] == "CaughtUp":
                break
            told.append(item["payload"])
    [compacted] = [payload for payload in told if payload["__typename"] == "ContextCompacted"]
    assert compacted["firstKeptMessageId"] is None
    assert compacted["tailOrdinal"] == 11
    assert compacted["summaryMessage"] == {"id": done["summaryMessage"]["id"], "text": done["summary"], "inContext": True}


SEND = """mutation M($input: SendMessageInput!) { sendMessage(input: $input) {
    run { stopReason } conversation { status pendingToolCalls { id name state } } } }"""
RESPOND = """mutation M($input: RespondToToolCallsInput!) { respondToToolCalls(input: $input) {
    run { status stopReason } conversation { status pendingToolCalls { id } }
    messages { ... on ToolReturnMessage { toolReturns { name status output } } } } }"""
WAITING = """query Q($id: ID!) { conversation(id: $id) { status pendingToolCalls { id name state }
    context { messages { type } } } }"""
CAMERA = {"name": "camera", "description": "Takes a picture.", "parameters": {"type": "object"}}


@pytest.mark.parametrize("mode", ["ALL", "SLIDING_WINDOW", "SELF_COMPACT_ALL", "SELF_COMPACT_SLIDING_WINDOW"])
async def test_calls_that_wait_outlast_a_compaction_and_are_answered_then(client: Client, parley: Rig, mode: str) -> None:
    conversation = await parley.conversation(tools=["current_time"])
    for number in range(4):
        await parley.ended((await parley.say(conversation.id, f"Number {number}. " + "A word to remember. " * 9)).run)
    given = {"conversationId": conversation.id, "messages": [{"text": "/tool camera /tool current_time"}], "clientTools": [CAMERA]}
    asked = (await client.ask(SEND, input={**given, "waitSeconds": 30}))["sendMessage"]
    assert asked["run"]["stopReason"] == "REQUIRES_APPROVAL"
    [call] = asked["conversation"]["pendingToolCalls"]
    assert (call["name"], call["state"]) == ("camera", "AWAITING_CLIENT")

    settings = {"mode": mode, "slidingWindowFraction": 0.5, "clipChars": 40}
    done = (await client.ask(COMPACT, input={"id": conversation.id, "settings": settings}))["compactConversation"]
    assert (done["run"]["status"], done["conversation"]["status"]) == ("COMPLETED", "AWAITING_INPUT")
    waiting = (await client.ask(WAITING, id=conversation.id))["conversation"]
    assert (waiting["status"], waiting["pendingToolCalls"]) == ("AWAITING_INPUT", [call])
    types = [message["type"] for message in waiting["context"]["messages"]]
    assert (types[:2], types[-2:]) == (["SYSTEM", "SUMMARY"], ["TOOL_CALL", "APPROVAL_REQUEST"])
    assert len(types) == done["messagesAfter"]

    answer = {"toolCallId": call["id"], "decision": {"result": {"output": "click"}}}
    answered = {"conversationId": conversation.id, "responses": [answer], "waitSeconds": 30}
    gone_on = (await client.ask(RESPOND, input=answered))["respondToToolCalls"]
    assert gone_on["run"] == {"status": "COMPLETED", "stopReason": "END_TURN"}
    assert gone_on["conversation"] == {"status": "IDLE", "pendingToolCalls": []}
    [returned] = [message["toolReturns"] for message in gone_on["messages"] if "toolReturns" in message]
    assert [(item["name"], item["status"]) for item in returned] == [("camera", "SUCCESS"), ("current_time", "SUCCESS")]
    assert returned[0]["output"] == "click"
