"""cancelRun, cancelConversation and whenBusy as a client asks for them, on both databases."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from db.engine import Database
from runs.workers.worker import WorkerLimits
from tests.resolvers.asking import Client
from tests.rig import Rig, rig
from tests.runs.logs import checked, said, until
from tests.runs.scripted import Cue, Models, Scripted, finished, text
from vocabulary.ids import Noun, new_id

CANCEL_RUN = """mutation M($input: CancelRunInput!) { cancelRun(input: $input) {
    result { outcome run { id status stopReason usage { requests estimated }
        messages { nodes { status ordinal text ... on UserMessage { clientMessageId } } } } } clientMutationId } }"""
CANCEL_CONVERSATION = """mutation M($input: CancelConversationInput!) { cancelConversation(input: $input) {
    conversation { id status activeRun { id } } results { outcome run { id status } } clientMutationId } }"""
SEND = """mutation M($input: SendMessageInput!) { sendMessage(input: $input) {
    run { id status } conversation { activeRun { id } } messages { status } messageEdges { cursor } } }"""


@pytest.fixture
async def idle(database: Database) -> Any:
    """Nobody works: what is sent stays queued."""
    async with rig(database, worker_limits=WorkerLimits(sole=database.is_sqlite, concurrency=0)) as parley:
        yield parley


async def _send(client: Client, conversation_id: str, text: str, **more: object) -> dict[str, Any]:
    message = {"text": text, "clientMessageId": f"my {text}"}
    return (await client.ask(SEND, input={"conversationId": conversation_id, "messages": [message], **more}))["sendMessage"]


async def test_a_cancelled_run_in_the_queue_shows_its_input_and_is_over(idle: Rig) -> None:
    client, conversation = Client(idle), await idle.conversation()
    await _send(client, conversation.id, "First")
    second = await _send(client, conversation.id, "Second")
    done = (await client.ask(CANCEL_RUN, input={"id": second["run"]["id"], "clientMutationId": "m"}))["cancelRun"]
    assert done["clientMutationId"] == "m"
    assert done["result"]["outcome"] == "CANCELLED"
    run = done["result"]["run"]
    assert (run["status"], run["stopReason"], run["usage"]) == ("CANCELLED", "CANCELLED", {"requests": 0, "estimated": False})
    assert run["messages"]["nodes"] == [{"status": "INTERRUPTED", "ordinal": None, "text": "Second", "clientMessageId": "my Second"}]
    again = (await client.ask(CANCEL_RUN, input={"id": second["run"]["id"]}))["cancelRun"]["result"]
    assert (again["outcome"], again["run"]) == ("ALREADY_ENDED", run)


async def test_a_conversation_is_cancelled_in_the_order_of_its_queue_and_then_there_is_nothing_to_cancel(idle: Rig) -> None:
    client, conversation = Client(idle), await idle.conversation()
    first, second = [await _send(client, conversation.id, text) for text in ("First", "Second")]
    urgent = await _send(client, conversation.id, "Urgent", whenBusy="INTERRUPT")
    assert (urgent["messages"], len(urgent["messageEdges"])) == ([{"status": "COMPLETED"}], 1)
    assert urgent["conversation"]["activeRun"]["id"] == urgent["run"]["id"]
    done = (await client.ask(CANCEL_CONVERSATION, input={"id": conversation.id, "clientMutationId": "m"}))["cancelConversation"]
    assert [(one["run"]["id"], one["outcome"]) for one in done["results"]] == [
        (urgent["run"]["id"], "CANCELLED"),
        (second["run"]["id"], "CANCELLED"),
    ]
    assert (done["conversation"]["status"], done["conversation"]["activeRun"], done["clientMutationId"]) == ("IDLE", None, "m")
    assert await client.refused(CANCEL_CONVERSATION, input={"id": conversation.id}) == {"code": "NO_ACTIVE_RUNS"}
    over = (await client.ask(CANCEL_RUN, input={"id": first["run"]["id"]}))["cancelRun"]["result"]
    assert (over["outcome"], over["run"]["status"]) == ("ALREADY_ENDED", "CANCELLED")


async def test_what_is_unknown_malformed_or_anothers_is_not_found(idle: Rig) -> None:
    client, conversation = Client(idle), await idle.conversation()
    sent = await _send(client, conversation.id, "First")
    stranger = Client(idle, tenant="somebody else")
    for asking, id_ in ((stranger, sent["run"]["id"]), (client, new_id(Noun.RUN)), (client, "nonsense"), (client, conversation.id)):
        assert await asking.refused(CANCEL_RUN, input={"id": id_}) == {"code": "NOT_FOUND"}
    for asking, id_ in (
        (stranger, conversation.id),
        (client, new_id(Noun.CONVERSATION)),
        (client, "nonsense"),
        (client, sent["run"]["id"]),
    ):
        assert await asking.refused(CANCEL_CONVERSATION, input={"id": id_}) == {"code": "NOT_FOUND"}
    assert (await idle.read(conversation.id)).status == "RUNNING"


# ---- while it runs


END = "subscription S($id: ID!) { runEvents(runId: $id) { payload { ... on RunChanged { status stopReason } } } }"


@asynccontextmanager
async def _talking(database: Database, *scripts: list[Cue]) -> AsyncGenerator[tuple[Client, Scripted, str]]:
    async with rig(database, models=Models(model := Scripted(*scripts))) as parley:
        yield Client(parley), model, (await parley.conversation(model="test/scripted")).id


async def _end_of(client: Client, run_id: str) -> str:
    """The status that a subscriber is told last."""
    async with asyncio.timeout(20):
        return [item["payload"]["status"] async for item in client.follow(END, id=run_id) if "status" in item["payload"]][-1]


async def test_twice_at_once_a_run_is_cancelled_once(database: Database) -> None:
    asked = asyncio.Event()
    async with _talking(database, [asked.set, asyncio.Event()]) as (client, model, id_):
        run_id = (await _send(client, id_, "Hi"))["run"]["id"]
        await asyncio.wait_for(asked.wait(), 20)
        both = await asyncio.gather(*(client.ask(CANCEL_RUN, input={"id": run_id}) for _ in range(2)))
        results = [answered["cancelRun"]["result"] for answered in both]
        assert sorted(result["outcome"] for result in results) == ["ALREADY_ENDED", "CANCELLED"]
        assert [result["run"]["status"] for result in results] == ["CANCELLED"] * 2
        assert await _end_of(client, run_id) == "CANCELLED"
        await asyncio.wait_for(model.left.wait(), 20)
        assert await client.refused(CANCEL_CONVERSATION, input={"id": id_}) == {"code": "NO_ACTIVE_RUNS"}
        await checked(client.rig, id_)


async def test_a_run_that_is_just_finishing_ends_once_and_as_the_answer_says(database: Database) -> None:
    gates = [asyncio.Event() for _ in range(12)]
    scripts = [[*text(f"Answer {number}"), gate, *finished()] for number, gate in enumerate(gates)]
    async with _talking(database, *scripts) as (client, _, id_):
        for number, gate in enumerate(gates):
            run_id = (await _send(client, id_, "Hi"))["run"]["id"]
            await until(client.rig, id_, said(f"Answer {number}"))
            gate.set()
            for _ in range(number * 4):
                await asyncio.sleep(0)
            result = (await client.ask(CANCEL_RUN, input={"id": run_id}))["cancelRun"]["result"]
            assert result["run"]["status"] == {"CANCELLED": "CANCELLED", "ALREADY_ENDED": "COMPLETED"}[result["outcome"]]
            assert await _end_of(client, run_id) == result["run"]["status"]
        await checked(client.rig, id_)
