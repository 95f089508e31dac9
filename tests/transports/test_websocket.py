"""graphql-transport-ws against a real server, with a client that can be as rude as it likes."""

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.transports.counting import World, schema
from tests.transports.serving import DEADLINE_S, Client, Served, serving
from transports.terms import Terms

COUNT = "subscription($name: String!, $upto: Int! = 1000000) { count(name: $name, upto: $upto) }"


async def count(client: Client, name: str, **variables: Any) -> None:
    await client.subscribe(name, COUNT, variables={"name": name, **variables})


async def reached(event: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await event.wait()


def step(name: str, number: int) -> dict[str, Any]:
    return {"id": name, "type": "next", "payload": {"data": {"count": number}}}


async def test_a_subscription_is_carried_event_by_event_and_completed(served: Served) -> None:
    async with served.ready() as client:
        await count(client, "a", upto=3)
        for number in (1, 2, 3):
            served.world.counters["a"].steps.release()
            assert await client.receive() == step("a", number)
        assert await client.receive() == {"id": "a", "type": "complete"}


async def test_queries_and_mutations_run_too(served: Served) -> None:
    async with served.ready() as client:
        await client.subscribe("q", "query A { actor } query B($t: String!) { echo(text: $t) }", variables={"t": "x"}, operationName="B")
        assert await client.receive() == {"id": "q", "type": "next", "payload": {"data": {"echo": "x"}}}
        assert await client.receive() == {"id": "q", "type": "complete"}
        await client.subscribe("m", 'mutation { remember(text: "x") }')
        assert await client.receive() == {"id": "m", "type": "next", "payload": {"data": {"remember": 1}}}
        assert await client.receive() == {"id": "m", "type": "complete"}


async def test_an_error_at_a_field_comes_beside_the_data(served: Served) -> None:
    async with served.ready() as client:
        await client.subscribe("q", "{ actor fail }")
        payload = (await client.receive())["payload"]
        assert payload["data"] == {"actor": "default", "fail": None}
        assert payload["errors"][0]["extensions"] == {"code": "NOT_FOUND"}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{ nope }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "subscription { nope }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query($n: Int!) { echo(number: $n) }", "variables": {"n": "x"}}, "BAD_USER_INPUT"),
        ({"query": COUNT}, "BAD_USER_INPUT"),
        ({"query": "query A { actor }", "operationName": "B"}, "BAD_USER_INPUT"),
        ({"query": ""}, "BAD_USER_INPUT"),
        ({"query": "{a" * 4_000}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "subscription { breaks(after: 0) }"}, "NOT_FOUND"),
        ({"query": "{ unwritable }"}, "INTERNAL_SERVER_ERROR"),
    ],
)
async def test_an_operation_that_cannot_run_ends_alone(served: Served, request_: dict[str, Any], code: str) -> None:
    async with served.ready() as client:
        await count(client, "a")
        await client.subscribe("b", **request_)
        answer = await client.receive()
        assert (answer["id"], answer["type"]) == ("b", "error")
        assert [problem["extensions"]["code"] for problem in answer["payload"]] == [code]
        served.world.counters["a"].steps.release()
        assert await client.receive() == step("a", 1)


async def test_a_subscription_that_breaks_in_the_middle_ends_with_its_error(served: Served) -> None:
    async with served.ready() as client:
        await client.subscribe("b", "subscription { breaks(after: 1) }")
        assert (await client.receive())["type"] == "next"
        answer = await client.receive()
        assert (answer["type"], answer["payload"][0]["extensions"]) == ("error", {"code": "NOT_FOUND"})


async def test_an_id_is_free_once_its_operation_has_ended(served: Served) -> None:
    async with served.ready() as client:
        for _ in range(20):
            await client.subscribe("q", "{ actor }")
            assert (await client.receive())["type"] == "next"
            assert (await client.receive())["type"] == "complete"


async def test_every_operation_has_a_context_of_its_own(served: Served) -> None:
    async with served.ready({"X-Actor": "ada"}) as client:
        numbers = set[int]()
        for id_ in ("a", "b", "c"):
            await client.subscribe(id_, "{ actor contextNumber }")
            data = (await client.receive())["payload"]["data"]
            assert data["actor"] == "ada", "the init payload reaches the context"
            numbers.add(data["contextNumber"])
            await client.receive()
        assert len(numbers) == 3


async def test_the_headers_of_the_handshake_reach_the_context(served: Served) -> None:
    async with served.ready(additional_headers={"X-Actor": "bob"}) as client:
        await client.subscribe("q", "{ actor }")
        assert (await client.receive())["payload"] == {"data": {"actor": "bob"}}


async def test_complete_ends_the_generator_and_nothing_more_is_sent(served: Served) -> None:
    counter = served.world.counters["a"]
    async with served.ready() as client:
        await count(client, "a")
        counter.steps.release()
        assert await client.receive() == step("a", 1)
        await client.send({"id": "a", "type": "complete"})
        await reached(counter.ended)
        await count(client, "a")
        counter.steps.release()
        assert await client.receive() == step("a", 1), "the same id, from the beginning"


async def test_complete_directly_after_subscribe_leaves_nothing_behind(served: Served) -> None:
    async with served.ready() as client:
        for _ in range(10):
            await count(client, "a")
            await client.send({"id": "a", "type": "complete"})
        await client.subscribe("q", "{ actor }")
        assert (await client.receive())["id"] == "q"


async def test_complete_of_an_unknown_id_is_ignored(served: Served) -> None:
    async with served.ready() as client:
        await client.send({"id": "never", "type": "complete"})
        await client.send({"type": "ping"})
        assert await client.receive() == {"type": "pong"}


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_ends_all_its_generators(served: Served, abruptly: bool) -> None:
    counters = [served.world.counters[name] for name in ("a", "b", "c")]
    async with served.ready() as client:
        for name in ("a", "b", "c"):
            await count(client, name)
        for counter in counters:
            await reached(counter.begun)
        if abruptly:
            client.connection.transport.abort()
        else:
            await client.connection.close()
        for counter in counters:
            await reached(counter.ended)


async def test_pings_are_answered_before_and_after_the_acknowledgement(served: Served) -> None:
    async with served.open() as client:
        await client.send({"type": "ping", "payload": {"a": 1}})
        assert await client.receive() == {"type": "pong"}
        await client.send({"type": "pong"})
        await client.init()
        await client.send({"type": "ping", "payload": None})
        assert await client.receive() == {"type": "pong"}


@pytest.mark.parametrize("payload", [{}, {"payload": None}, {"payload": {}}])
async def test_connection_init_needs_no_payload(served: Served, payload: dict[str, Any]) -> None:
    async with served.open() as client:
        await client.send({"type": "connection_init", **payload})
        assert await client.receive() == {"type": "connection_ack"}


def subscribe(**changes: object) -> dict[str, object]:
    return {"type": "subscribe", "id": "a", "payload": {"query": "{ actor }", **changes}}


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize(
    "message",
    [
        *([1], [], 1, None, "x", True, {}, {"type": None}, {"type": ["ping"]}, {"type": "nope"}),
        *({"type": "connection_ack"}, {"type": "next", "id": "a", "payload": {}}, {"type": "start", "id": "a"}),
        *({"type": "complete"}, {"type": "complete", "id": [1]}, {"type": "complete", "id": None}),
        *({"type": "subscribe"}, {"type": "subscribe", "id": "a"}, {"type": "subscribe", "id": "a", "payload": None}),
        *({**subscribe(), "id": [1]}, {**subscribe(), "id": 1}, {**subscribe(), "id": None}, {**subscribe(), "id": ""}),
        *({**subscribe(), "payload": []}, {**subscribe(), "payload": "{ actor }"}),
    ],
)
async def test_an_invalid_message_closes_with_4400(served: Served, message: object, ready: bool) -> None:
    async with served.open() as client:
        if ready:
            await client.init()
        await client.send(message)
        assert (await client.closed())[0] == 4400


@pytest.mark.parametrize("payload", [[], "x", 5, True])
async def test_connection_init_with_another_payload_than_an_object_closes_with_4400(served: Served, payload: object) -> None:
    async with served.open() as client:
        await client.send({"type": "connection_init", "payload": payload})
        assert await client.closed() == (4400, "`payload` must be an object")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"query": None}, "`query` must be a string"),
        ({"query": ["{ actor }"]}, "`query` must be a string"),
        ({"variables": []}, "`variables` must be an object"),
        ({"variables": "{}"}, "`variables` must be an object"),
        ({"operationName": 1}, "`operationName` must be a string or null"),
        ({"extensions": 1}, "`extensions` must be an object"),
    ],
)
async def test_a_malformed_operation_closes_with_4400(served: Served, changes: dict[str, object], reason: str) -> None:
    async with served.ready() as client:
        await client.send(subscribe(**changes))
        assert await client.closed() == (4400, reason)


@pytest.mark.parametrize("frame", ["", "{", "nope", "NaN", "[" * 10_000, b'{"type":"ping"}', b"\xff", b" "])
async def test_a_frame_that_is_not_json_text_closes_with_4400(served: Served, frame: str | bytes) -> None:
    async with served.ready() as client:
        await client.connection.send(frame)
        assert (await client.closed())[0] == 4400


async def test_a_huge_frame_closes_with_1009_and_ends_what_runs(served: Served) -> None:
    async with served.ready() as client:
        await count(client, "a")
        await reached(served.world.counters["a"].begun)
        await client.subscribe("b", "{ actor }", variables={"x": "x" * 20_000})
        assert (await client.closed())[0] == 1009
        await reached(served.world.counters["a"].ended)


async def test_half_a_surrogate_pair_does_not_close_the_socket(served: Served) -> None:
    async with served.ready() as client:
        text = r'{"type":"subscribe","id":"q","payload":{"query":"query($t:String!){echo(text:$t)}","variables":{"t":"a\ud83d"}}}'
        await client.connection.send(text)
        assert (await client.receive())["payload"] == {"data": {"echo": "a�"}}


async def test_subscribe_before_the_acknowledgement_closes_with_4401(served: Served) -> None:
    async with served.open() as client:
        await client.subscribe("a", "{ actor }")
        assert (await client.closed())[0] == 4401


async def test_a_second_connection_init_closes_with_4429(served: Served) -> None:
    async with served.ready() as client:
        await client.send({"type": "connection_init"})
        assert (await client.closed())[0] == 4429


async def test_an_id_in_use_closes_with_4409_and_ends_what_runs(served: Served) -> None:
    async with served.ready() as client:
        await count(client, "a")
        await reached(served.world.counters["a"].begun)
        await client.subscribe("a", "{ actor }")
        assert (await client.closed())[0] == 4409
        await reached(served.world.counters["a"].ended)


@pytest.mark.parametrize("subprotocols", [None, ["graphql-ws"], ["soap", "graphql-ws"]])
async def test_another_subprotocol_closes_with_4406(served: Served, subprotocols: list[str] | None) -> None:
    async with served.open(subprotocols=subprotocols) as client:
        assert client.connection.subprotocol is None
        assert (await client.closed())[0] == 4406


async def test_ours_is_chosen_among_subprotocols(served: Served) -> None:
    async with served.ready(subprotocols=["graphql-ws", "graphql-transport-ws"]) as client:
        assert client.connection.subprotocol == "graphql-transport-ws"


@pytest.mark.parametrize(("actor", "code"), [("nobody", 4401), ("outcast", 4403), ("bug", 1013)])
async def test_who_is_not_welcome_is_closed_at_connection_init(served: Served, actor: str, code: int) -> None:
    async with served.open() as client:
        await client.send({"type": "connection_init", "payload": {"X-Actor": actor}})
        closed_with, reason = await client.closed()
        assert closed_with == code
        assert "secret" not in reason


async def test_who_is_welcome_no_more_is_closed_at_the_next_operation(served: Served) -> None:
    async with served.ready() as client:
        await count(client, "a")
        await reached(served.world.counters["a"].begun)
        served.world.revoked = True
        await client.subscribe("b", "{ actor }")
        assert (await client.closed())[0] == 4403
        await reached(served.world.counters["a"].ended)


async def test_operations_beyond_the_limit_are_refused_one_by_one(served: Served) -> None:
    async with served.ready() as client:
        for name in ("a", "b", "c"):
            await count(client, name)
        await client.subscribe("q", "{ actor }")
        refused = await client.receive()
        assert (refused["id"], refused["type"]) == ("q", "error")
        assert refused["payload"][0]["extensions"] == {"code": "TOO_MANY_SUBSCRIPTIONS"}
        await client.send({"id": "a", "type": "complete"})
        await client.subscribe("q", "{ actor }")
        assert (await client.receive())["type"] == "next"


@pytest.mark.parametrize("origin", [None, "https://friend.example", "https://FRIEND.example:443"])
async def test_our_own_pages_and_those_of_allowed_origins_may_open_a_socket(served: Served, origin: str | None) -> None:
    async with served.ready(additional_headers={"Origin": origin or f"http://127.0.0.1:{served.port}"}) as client:
        await client.send({"type": "ping"})
        assert await client.receive() == {"type": "pong"}


@pytest.mark.parametrize("origin", ["https://stranger.example", "http://friend.example", "null"])
async def test_pages_of_other_origins_are_refused_at_the_handshake(served: Served, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with served.open(additional_headers={"Origin": origin}):
            pass
    assert refused.value.response.status_code == 403


async def test_silence_is_closed_with_4408() -> None:
    world = World()
    async with serving(world, Terms(schema=schema, context_of=world.context_of, init_timeout_s=1)) as served, served.open() as client:
        await client.send({"type": "ping"})
        assert (await client.closed())[0] == 4408


async def test_the_deadline_of_the_init_is_not_one_of_the_conversation() -> None:
    world = World()
    async with serving(world, Terms(schema=schema, context_of=world.context_of, init_timeout_s=1)) as served, served.ready() as client:
        async with served.open() as silent:
            await silent.closed()
        await client.subscribe("q", "{ actor }")
        assert (await client.receive())["type"] == "next"


async def test_a_drain_closes_every_socket_with_1012_and_ends_what_runs(served: Served) -> None:
    async with served.ready() as busy, served.ready() as idle, served.open() as silent:
        await count(busy, "a")
        await reached(served.world.counters["a"].begun)
        async with asyncio.timeout(DEADLINE_S):
            await served.sockets.drain()
        assert served.world.counters["a"].ended.is_set()
        for client in (busy, idle, silent):
            assert (await client.closed())[0] == 1012


async def test_who_comes_after_a_drain_is_closed_with_1012(served: Served) -> None:
    await served.sockets.drain()
    async with served.open() as client:
        assert (await client.closed())[0] == 1012


async def test_a_server_that_stops_closes_with_1012(served: Served) -> None:
    async with served.ready() as client:
        await count(client, "a")
        await reached(served.world.counters["a"].begun)
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(served.server.shutdown())
            assert (await client.closed())[0] == 1012
            await reached(served.world.counters["a"].ended)
            await stopping


async def test_many_sockets_come_and_go_without_a_trace(served: Served) -> None:
    async def visit(number: int) -> None:
        async with served.ready() as client:
            await count(client, str(number))
            served.world.counters[str(number)].steps.release()
            await client.receive()
            if number % 2:
                client.connection.transport.abort()

    async with asyncio.TaskGroup() as visits:
        for number in range(100):
            visits.create_task(visit(number))
    for counter in served.world.counters.values():
        await reached(counter.ended)
    async with asyncio.timeout(DEADLINE_S):
        await served.sockets.drain()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("operation")]
