"""Bad input over the real wire: a coded error that names what is wrong with which argument, and nothing stored."""

import json
import re
from typing import Any

import pytest

from tests.e2e.client import CREATE_AGENT, CREATE_CONVERSATION, FOLLOW, LOG, SEND, Client, Refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

HUGE = 2**31 - 1
LONE, NUL = "half \ud83c of a pair", "a \0 in the middle"
UNKNOWN = "0198c0de-0000-7000-8000-000000000000"
NOT_IDS = ["", "conv", "conv-", UNKNOWN, "💥", LONE, NUL, "conv-" + "x" * 10_000, "' OR 1=1 --", f"agent-{UNKNOWN}", "step-1", "worker-1"]
NOT_CURSORS = ["", "x", "💥", LONE, NUL, "bm90IGpzb24", "WzFd", "W10", "A" * 5000, "eyJhIjoxfQ"]

STORED = """
{
  agents { totalCount nodes { id updatedAt } }
  conversations { totalCount nodes { id headSequence updatedAt messages { totalCount } runs { totalCount } } }
}
"""
PAGES = [
    "query ($first: Int, $after: String, $last: Int, $before: String) {"
    " agents(first: $first, after: $after, last: $last, before: $before) { totalCount } }",
    "query ($first: Int, $after: String, $last: Int, $before: String) {"
    " conversations(first: $first, after: $after, last: $last, before: $before) { totalCount } }",
    "query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {"
    " conversation(id: $id) { messages(first: $first, after: $after, last: $last, before: $before) { totalCount } } }",
    "query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {"
    " conversation(id: $id) { runs(first: $first, after: $after, last: $last, before: $before) { totalCount } } }",
]
CURSOR_OF = """
query ($id: ID!) {
  agents { pageInfo { endCursor } }
  conversations { pageInfo { endCursor } }
  conversation(id: $id) { messages { pageInfo { endCursor } } runs { pageInfo { endCursor } } }
}
"""


def problems(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Code and argument of each error."""
    extensions = [error["extensions"] for error in answer["errors"]]
    assert all(error["message"] for error in answer["errors"])
    return [(each["code"], each.get("argument")) for each in extensions]


def message(**more: Any) -> dict[str, Any]:
    return {"messages": [{"text": "Hello", **more}]}


@pytest.mark.parametrize(
    ("given", "code", "argument"),
    [
        ({"name": ""}, "BAD_USER_INPUT", "input.name"),
        ({"name": " \t\n"}, "BAD_USER_INPUT", "input.name"),
        ({"name": "x" * 256}, "BAD_USER_INPUT", "input.name"),
        ({"instructions": "x" * 1_000_001}, "BAD_USER_INPUT", "input.instructions"),
        ({"description": "x" * 10_001}, "BAD_USER_INPUT", "input.description"),
        ({"model": ""}, "BAD_USER_INPUT", "input.model"),
        ({"model": "x" * 300}, "BAD_USER_INPUT", "input.model"),
        ({"model": "nobody/knows"}, "MODEL_NOT_FOUND", None),
        ({"model": "demo"}, "MODEL_NOT_FOUND", None),
        ({"model": "demo/other"}, "MODEL_NOT_FOUND", None),
        ({"model": "openai/gpt-5-mini"}, "MODEL_NOT_FOUND", None),
        ({"model": LONE}, "MODEL_NOT_FOUND", None),
        ({"model": NUL}, "MODEL_NOT_FOUND", None),
        ({"modelSettings": {"temperature": -0.1}}, "BAD_USER_INPUT", "input.modelSettings.temperature"),
        ({"modelSettings": {"temperature": 1e308}}, "BAD_USER_INPUT", "input.modelSettings.temperature"),
        ({"modelSettings": {"topP": 1.1}}, "BAD_USER_INPUT", "input.modelSettings.topP"),
        ({"modelSettings": {"maxOutputTokens": 0}}, "BAD_USER_INPUT", "input.modelSettings.maxOutputTokens"),
        ({"modelSettings": {"maxOutputTokens": -HUGE}}, "BAD_USER_INPUT", "input.modelSettings.maxOutputTokens"),
        ({"modelSettings": {"maxOutputTokens": 2**31}}, "BAD_USER_INPUT", None),
        ({"modelSettings": {"contextWindow": 0}}, "BAD_USER_INPUT", "input.modelSettings.contextWindow"),
        ({"modelSettings": {"reasoningEffort": "SOME"}}, "BAD_USER_INPUT", None),
        ({"blocks": [{"label": "", "value": ""}]}, "BAD_USER_INPUT", "input.blocks[0].label"),
        ({"blocks": [{"label": LONE, "value": ""}]}, "BAD_USER_INPUT", "input.blocks[0].label"),
        ({"blocks": [{"label": "a", "value": "x" * 5001}]}, "BAD_USER_INPUT", "input.blocks[0].value"),
        ({"blocks": [{"label": "a", "value": "", "limit": 0}]}, "BAD_USER_INPUT", "input.blocks[0].limit"),
        ({"blocks": [{"label": "a", "value": "", "limit": HUGE}]}, "BAD_USER_INPUT", "input.blocks[0].limit"),
        ({"blocks": [{"label": "a", "value": ""}] * 2}, "BAD_USER_INPUT", "input.blocks[1].label"),
        ({"tools": [{"name": "nothing_like_it"}]}, "UNKNOWN_TOOL", None),
        ({"tools": [{"name": ""}]}, "BAD_USER_INPUT", "input.tools[0].name"),
        ({"tools": [{"name": "current_time"}] * 2}, "BAD_USER_INPUT", "input.tools[1].name"),
        ({"name": None}, "BAD_USER_INPUT", None),
        ({"name": 7}, "BAD_USER_INPUT", None),
        ({"nmae": "x"}, "BAD_USER_INPUT", None),
    ],
)
async def test_a_bad_agent_is_not_created(client: Client, given: dict[str, object], code: str, argument: str | None) -> None:
    await refused_and_nothing_stored(client, CREATE_AGENT, {"name": "Guide", **given}, code, argument)


@pytest.mark.parametrize(
    ("given", "code", "argument"),
    [
        ({"summary": "x" * 10_001}, "BAD_USER_INPUT", "input.summary"),
        ({"model": "nobody/knows"}, "MODEL_NOT_FOUND", None),
        ({"model": ""}, "BAD_USER_INPUT", "input.model"),
        ({"modelSettings": {"temperature": 3}}, "BAD_USER_INPUT", "input.modelSettings.temperature"),
        ({"idempotencyKey": ""}, "BAD_USER_INPUT", "input.idempotencyKey"),
        ({"idempotencyKey": "x" * 256}, "BAD_USER_INPUT", "input.idempotencyKey"),
        *(({"agentId": id_}, "NOT_FOUND", None) for id_ in [*NOT_IDS, f"conv-{UNKNOWN}"]),
    ],
)
async def test_a_bad_conversation_is_not_created(client: Client, given: dict[str, object], code: str, argument: str | None) -> None:
    agent_id = await client.agent()
    await refused_and_nothing_stored(client, CREATE_CONVERSATION, {"agentId": agent_id, **given}, code, argument)


@pytest.mark.parametrize(
    ("given", "code", "argument"),
    [
        ({"messages": []}, "BAD_USER_INPUT", "input.messages"),
        ({"messages": [{"text": "x"}] * 101}, "BAD_USER_INPUT", "input.messages"),
        (message(text=""), "BAD_USER_INPUT", "input.messages[0].text"),
        (message(text=None), "BAD_USER_INPUT", "input.messages[0].text"),
        (message(content=[{"text": "as well"}]), "BAD_USER_INPUT", "input.messages[0].text"),
        (message(text=None, content=[]), "BAD_USER_INPUT", "input.messages[0].content"),
        (message(text=None, content=[{"text": ""}]), "BAD_USER_INPUT", "input.messages[0].content[0].text"),
        (message(text=None, content=[{}]), "BAD_USER_INPUT", None),
        (message(text=None, content=[{"text": "a", "image": {"url": "https://x"}}]), "BAD_USER_INPUT", None),
        (
            message(text=None, content=[{"image": {"url": "file:///etc/passwd"}}]),
            "BAD_USER_INPUT",
            "input.messages[0].content[0].image.url",
        ),
        (message(text=None, content=[{"text": "x" * 500_001}] * 2), "BAD_USER_INPUT", "input.messages[0].content"),
        (message(text="x" * 1_000_001), "BAD_USER_INPUT", "input.messages[0].text"),
        ({"messages": [{"text": "good"}, {"text": ""}]}, "BAD_USER_INPUT", "input.messages[1].text"),
        (message(role="ASSISTANT"), "BAD_USER_INPUT", None),
        (message(sender=""), "BAD_USER_INPUT", "input.messages[0].sender"),
        (message(clientMessageId="x" * 256), "BAD_USER_INPUT", "input.messages[0].clientMessageId"),
        (message() | {"maxSteps": 0}, "BAD_USER_INPUT", "input.maxSteps"),
        (message() | {"maxSteps": HUGE}, "BAD_USER_INPUT", "input.maxSteps"),
        (message() | {"maxSteps": 2**64}, "BAD_USER_INPUT", None),
        (message() | {"maxSteps": 1.5}, "BAD_USER_INPUT", None),
        (message() | {"waitSeconds": -1}, "BAD_USER_INPUT", "input.waitSeconds"),
        (message() | {"waitSeconds": 601}, "BAD_USER_INPUT", "input.waitSeconds"),
        (message() | {"overrideModel": "nobody/knows"}, "MODEL_NOT_FOUND", None),
        (message() | {"overrideModel": "demo/ech\0"}, "MODEL_NOT_FOUND", None),
        (message() | {"overrideModelSettings": {"topP": -1}}, "BAD_USER_INPUT", "input.overrideModelSettings.topP"),
        (message() | {"overrideSystem": "x" * 1_000_001}, "BAD_USER_INPUT", "input.overrideSystem"),
        (message() | {"groupId": ""}, "BAD_USER_INPUT", "input.groupId"),
        (message() | {"groupId": "x" * 300}, "BAD_USER_INPUT", "input.groupId"),
        (message() | {"idempotencyKey": ""}, "BAD_USER_INPUT", "input.idempotencyKey"),
        (message() | {"whenBusy": "WHENEVER"}, "BAD_USER_INPUT", None),
        *((message() | {"conversationId": id_}, "NOT_FOUND", None) for id_ in [*NOT_IDS, f"conv-{UNKNOWN}"]),
    ],
)
async def test_a_bad_message_is_not_sent(client: Client, given: dict[str, object], code: str, argument: str | None) -> None:
    conversation_id = await client.conversation()
    await refused_and_nothing_stored(client, SEND, {"conversationId": conversation_id, **given}, code, argument)


async def refused_and_nothing_stored(client: Client, document: str, given: dict[str, Any], code: str, argument: str | None) -> None:
    """Where no argument is named by itself, the message names it, or the id or handle that was given."""
    before = await client.ask(STORED)
    answer = await client.answer(document, input=given)
    assert problems(answer) == [(code, argument)]
    assert argument or code != "BAD_USER_INPUT" or any(name in answer["errors"][0]["message"] for name in names(given))
    assert list(answer.get("data", {}).values()) in ([], [None])
    assert await client.ask(STORED) == before


def names(given: dict[str, Any]) -> list[str]:
    """Of all that was given; of a @oneOf only its type is ever named."""
    return ["'ContentPartInput'", *re.findall(r'"(\w+)": ', json.dumps(given))]


@pytest.mark.parametrize("id_", [*NOT_IDS, f"conv-{UNKNOWN}", f"run-{UNKNOWN}", f"message-{UNKNOWN}", f"block-{UNKNOWN}"])
async def test_an_unknown_or_malformed_id_is_nothing(client: Client, id_: str) -> None:
    assert await client.ask("query ($id: ID!) { node(id: $id) { id } }", id=id_) == {"node": None}
    assert await client.ask("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=[id_, id_]) == {"nodes": [None, None]}
    for field in ("agent", "conversation", "run"):
        answer = await client.answer(f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}", id=id_)
        assert problems(answer) == [("NOT_FOUND", None)]
        assert answer["data"] == {field: None}
    filtered = await client.ask("query ($id: ID!) { conversations(filter: { agentId: $id }) { totalCount nodes { id } } }", id=id_)
    assert filtered["conversations"] == {"totalCount": 0, "nodes": []}


@pytest.mark.parametrize("document", PAGES)
async def test_a_cursor_of_nothing_is_refused(client: Client, document: str) -> None:
    id_ = await client.conversation()
    for argument in ("after", "before"):
        for cursor in NOT_CURSORS:
            assert problems(await client.answer(document, id=id_, **{argument: cursor})) == [("INVALID_CURSOR", argument)], cursor


async def test_a_cursor_of_another_tenant_connection_or_parent_is_refused(client: Client, stranger: Client) -> None:
    mine = await client.conversation()
    for asking, id_ in ((stranger, await stranger.conversation()), (client, await client.conversation())):
        await asking.send(id_, "Hello", waitSeconds=10)
        found = await asking.ask(CURSOR_OF, id=id_)
        cursors = [found["agents"], found["conversations"], found["conversation"]["messages"], found["conversation"]["runs"]]
        for own, document in enumerate(PAGES):
            for of, connection in enumerate(cursors):
                shared = asking is client and own == of and own < 2
                answer = await client.answer(document, id=mine, after=connection["pageInfo"]["endCursor"])
                assert ("errors" not in answer) if shared else (problems(answer) == [("INVALID_CURSOR", "after")])


@pytest.mark.parametrize(
    ("page", "argument"),
    [
        ({"first": -1}, "first"),
        ({"last": -1}, "last"),
        ({"first": 201}, "first"),
        ({"last": HUGE}, "last"),
        ({"first": 1, "last": 1}, "last"),
    ],
)
@pytest.mark.parametrize("document", PAGES)
async def test_a_page_that_is_none_is_refused(client: Client, document: str, page: dict[str, int], argument: str) -> None:
    id_ = await client.conversation()
    assert problems(await client.answer(document, id=id_, **page)) == [("BAD_USER_INPUT", argument)]


@pytest.mark.parametrize(
    ("given", "argument"),
    [({"after": -1}, "after"), ({"first": 0}, "first"), ({"first": 1001}, "first"), ({"after": 2**31}, None), ({"after": "1"}, None)],
)
async def test_a_position_that_is_none_is_refused(client: Client, given: dict[str, object], argument: str | None) -> None:
    id_ = await client.conversation()
    document = (
        "query ($id: ID!, $after: Int, $first: Int) { conversation(id: $id) { events(after: $after, first: $first) { endSequence } } }"
    )
    assert problems(await client.answer(document, id=id_, **given)) == [("BAD_USER_INPUT", argument)]


@pytest.mark.parametrize("after", [-1, -HUGE, 2**31, "x", 1.5])
async def test_a_position_that_is_none_is_not_followed(client: Client, after: object) -> None:
    id_ = await client.conversation()
    async with client.socket() as socket:
        with pytest.raises(Refused) as refused:
            await socket.ask(FOLLOW, id=id_, after=after)
        assert [error["extensions"]["code"] for error in refused.value.errors] == ["BAD_USER_INPUT"]


async def test_who_polls_from_beyond_the_head_is_sent_back_to_it(client: Client) -> None:
    id_ = await client.conversation()
    page = (await client.ask(LOG, id=id_, after=HUGE, deltas="ALL"))["conversation"]["events"]
    (item,) = page["events"]
    assert item["payload"] == {"__typename": "StreamReset", "reason": "POSITION_AHEAD", "headSequence": 1}
    assert (item["previousSequence"], item["sequence"]) == (HUGE, 1)
    assert (page["endSequence"], page["headSequence"], page["hasMore"]) == (1, 1, False)


async def test_text_that_no_database_holds_is_stored_as_one_that_it_does(client: Client) -> None:
    """NUL and half a surrogate pair become U+FFFD wherever text is free; the run that quotes them is not hurt."""
    block = {"label": "human", "value": LONE, "description": NUL}
    made = await client.ask(
        CREATE_AGENT, input={"name": LONE, "description": NUL, "instructions": NUL, "blocks": [block], "clientMutationId": LONE}
    )
    agent_id = made["createAgent"]["agent"]["id"]
    agent = (await client.ask("query ($id: ID!) { agent(id: $id) { name description blocks { value description } } }", id=agent_id))[
        "agent"
    ]
    held_lone, held_nul = "half \ufffd of a pair", "a \ufffd in the middle"
    assert agent == {"name": held_lone, "description": held_nul, "blocks": [{"value": held_lone, "description": held_nul}]}

    given = {"agentId": agent_id, "summary": NUL, "idempotencyKey": NUL}
    id_ = (await client.ask(CREATE_CONVERSATION, input=given))["createConversation"]["conversation"]["id"]
    more: dict[str, object] = {"groupId": NUL, "idempotencyKey": LONE, "overrideSystem": NUL, "waitSeconds": 10}
    sent = await client.send(id_, f"{LONE} {NUL} \ud83c\udfad", **more)
    said = f"{held_lone} {held_nul} 🎭"
    assert [each["text"] for each in sent["messages"]] == [said, f"You said: {said}"]
    again = await client.send(id_, f"{LONE} {NUL} \ud83c\udfad", **more)
    assert (again["deduplicated"], again["run"]["id"]) == (True, sent["run"]["id"])
