"""One socket, many operations: each for itself, whatever becomes of the others."""

import asyncio

import pytest

from tests.e2e.client import FOLLOW, SEND, SNAPSHOT, Client, Following, Refused, Transcript

pytestmark = pytest.mark.asyncio(loop_scope="session")

SUMMARY = "query ($id: ID!) { conversation(id: $id) { status headSequence messages { nodes { text } } } }"


async def test_queries_mutations_and_subscriptions_share_a_socket(client: Client) -> None:
    ids = [await client.conversation() for _ in range(3)]
    async with client.socket() as socket:
        followed = [
            Following(id_, Transcript(0), socket, await socket.start(FOLLOW, id=id_, after=0, deltas=mode))
            for id_, mode in zip(ids, ("ALL", "COALESCED", "NONE"), strict=True)
        ]
        sends = [socket.ask(SEND, input={"conversationId": id_, "messages": [{"text": f"I am {id_}"}], "waitSeconds": 10}) for id_ in ids]
        sent, *_ = await asyncio.gather(asyncio.gather(*sends), *(following.kind("CaughtUp") for following in followed))
        runs = [answer["sendMessage"]["run"]["id"] for answer in sent]
        await asyncio.gather(*(following.end_of(run_id) for following, run_id in zip(followed, runs, strict=True)))
        for following in followed:
            snapshot = Transcript.of((await socket.ask(SNAPSHOT, id=following.conversation_id))["conversation"])
            assert following.transcript.state == snapshot.state
            assert snapshot.texts == [f"You said: I am {following.conversation_id}"]


async def test_each_query_of_a_socket_reads_anew(client: Client) -> None:
    """What one operation has loaded is not what the next one is answered from."""
    id_ = await client.conversation()
    async with client.socket() as socket:
        before = (await socket.ask(SUMMARY, id=id_))["conversation"]
        await client.send(id_, "Something new", waitSeconds=10)
        after = (await socket.ask(SUMMARY, id=id_))["conversation"]
    assert [message["text"] for message in before["messages"]["nodes"]] == [""]
    assert [message["text"] for message in after["messages"]["nodes"]] == ["", "Something new", "You said: Something new"]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("subscription {", "GRAPHQL_PARSE_FAILED"),
        ("{ nothingLikeIt }", "GRAPHQL_VALIDATION_FAILED"),
        ('subscription { conversationEvents(conversationId: "conv-none") { sequence } }', "NOT_FOUND"),
        ("subscription ($id: ID!) { conversationEvents(conversationId: $id) { sequence } }", "BAD_USER_INPUT"),
    ],
)
async def test_an_operation_that_is_refused_hurts_no_other(client: Client, document: str, code: str) -> None:
    id_, seen = await client.conversation(), Transcript(0)
    async with client.following(id_, seen) as following:
        run_id = (await client.send(id_, "Two or three words"))["run"]["id"]
        await following.kind("MessageDelta")
        with pytest.raises(Refused) as refused:
            await following.socket.ask(document)
        assert [error["extensions"]["code"] for error in refused.value.errors] == [code]
        await following.end_of(run_id)
        assert (await following.socket.ask("{ viewer { actor } }"))["viewer"] == {"actor": "default"}
    assert seen.state == (await client.snapshot(id_)).state


async def test_a_subscription_that_is_stopped_stops_alone(client: Client) -> None:
    id_, seen = await client.conversation(), Transcript(0)
    async with client.following(id_, seen) as following:
        other = await following.socket.start(FOLLOW, id=id_, after=0, deltas="ALL")
        await anext(other)
        await other.stop()
        run_id = (await client.send(id_, "Hello"))["run"]["id"]
        await following.end_of(run_id)
        await following.socket.ask("{ viewer { actor } }")
        assert all("Hello" not in str(other.frames.get_nowait()) for _ in range(other.frames.qsize()))
