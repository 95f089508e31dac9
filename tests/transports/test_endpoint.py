"""GraphQL over HTTP against a real server."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from httpx2 import Response
from structlog.testing import capture_logs

from tests.transports.serving import Served

JSON = "application/json"
RESPONSE = "application/graphql-response+json"

REJECTED = [
    ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
    ({"query": "{ nope }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": '{ echo(number: "x") }'}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query($n: Int!) { echo(number: $n) }", "variables": {"n": "x"}}, "BAD_USER_INPUT"),
    ({"query": "query($n: Int!) { echo(number: $n) }"}, "BAD_USER_INPUT"),
    ({"query": "query A { actor }", "operationName": "B"}, "BAD_USER_INPUT"),
    ({"query": "fragment F on Query { actor }"}, "BAD_USER_INPUT"),
    ({"query": ""}, "BAD_USER_INPUT"),
    ({"query": "{a" * 4_000}, "GRAPHQL_PARSE_FAILED"),
]


async def post(served: Served, body: object, **headers: str) -> Response:
    return await served.http.post("/graphql", json=body, headers=headers)


def error(response: Response, status: int) -> dict[str, Any]:
    """The only error of a response that has no data."""
    assert response.status_code == status, response.text
    body = response.json()
    assert "data" not in body
    [problem] = body["errors"]
    return problem


def code(response: Response, status: int) -> str:
    problem = error(response, status)
    assert problem["message"]
    return problem["extensions"]["code"]


async def test_a_query_is_answered(served: Served) -> None:
    response = await post(served, {"query": "query($t: String!) { echo(text: $t) }", "variables": {"t": "grüß"}})
    assert (response.status_code, response.json()) == (200, {"data": {"echo": "grüß"}})
    assert response.headers["content-type"] == "application/json; charset=utf-8"


async def test_the_newer_media_type_is_used_when_it_is_preferred(served: Served) -> None:
    response = await post(served, {"query": "{ actor }"}, accept=f"{RESPONSE}, {JSON};q=0.9")
    assert (response.status_code, response.json()) == (200, {"data": {"actor": "default"}})
    assert response.headers["content-type"] == f"{RESPONSE}; charset=utf-8"
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize(("accept", "status"), [(JSON, 200), ("*/*", 200), ("text/plain", 200), (RESPONSE, 400)])
@pytest.mark.parametrize(("request_", "expected"), REJECTED)
async def test_what_cannot_run_is_a_coded_error(served: Served, request_: object, expected: str, accept: str, status: int) -> None:
    assert code(await post(served, request_, accept=accept), status) == expected


@pytest.mark.parametrize("accept", [JSON, RESPONSE])
async def test_an_error_at_a_field_comes_beside_the_data(served: Served, accept: str) -> None:
    response = await post(served, {"query": "{ actor fail }"}, accept=accept)
    assert response.status_code == 200
    assert response.json()["data"] == {"actor": "default", "fail": None}
    assert response.json()["errors"][0]["extensions"] == {"code": "NOT_FOUND"}


@pytest.mark.parametrize("accept", [JSON, RESPONSE])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'[{"query": "{ actor }"}]',
        b"5",
        b'"x"',
        b"null",
        b"{}",
        b'{"query": 5}',
        b'{"query": "{ actor }", "variables": 1}',
    ],
)
async def test_a_malformed_body_is_a_coded_error(served: Served, body: bytes, accept: str) -> None:
    headers = {"content-type": JSON, "accept": accept}
    assert code(await served.http.post("/graphql", content=body, headers=headers), 400) == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonp", "/;"]
)
async def test_another_content_type_is_refused(served: Served, content_type: str) -> None:
    response = await served.http.post("/graphql", content=b'{"query": "{ actor }"}', headers={"content-type": content_type})
    assert code(response, 415) == "BAD_USER_INPUT"


async def test_a_body_over_the_limit_is_refused(served: Served) -> None:
    response = await post(served, {"query": "{ actor }", "variables": {"x": "x" * 20_000}})
    assert code(response, 413) == "BAD_USER_INPUT"


async def test_a_body_over_the_limit_is_refused_when_its_length_is_not_announced(served: Served) -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(20):
            yield b" " * 1000

    response = await served.http.post("/graphql", content=chunks(), headers={"content-type": JSON})
    assert code(response, 413) == "BAD_USER_INPUT"


async def test_a_mutation_runs_over_post_only(served: Served) -> None:
    mutation = 'mutation { remember(text: "x") }'
    refused = await served.http.get("/graphql", params={"query": mutation})
    assert code(refused, 405) == "BAD_USER_INPUT"
    assert refused.headers["allow"] == "GET, POST"
    assert served.world.remembered == []
    assert (await post(served, {"query": mutation})).json() == {"data": {"remember": 1}}


async def test_a_subscription_does_not_run_over_post(served: Served) -> None:
    assert code(await post(served, {"query": 'subscription { count(name: "a") }'}), 405) == "BAD_USER_INPUT"
    assert "a" not in served.world.counters


async def test_a_query_runs_over_get(served: Served) -> None:
    parameters = {"query": "query A { actor } query B($n: Int!) { echo(number: $n) }", "operationName": "B", "variables": '{"n": 7}'}
    response = await served.http.get("/graphql", params=parameters)
    assert (response.status_code, response.json()) == (200, {"data": {"echo": "7"}})


@pytest.mark.parametrize(
    "parameters", [{}, {"variables": "{}"}, {"query": "{ actor }", "variables": "{"}, {"query": "{ actor }", "variables": "[]"}]
)
async def test_a_malformed_query_string_is_a_coded_error(served: Served, parameters: dict[str, str]) -> None:
    assert code(await served.http.get("/graphql", params=parameters), 400) == "BAD_USER_INPUT"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_another_method_is_refused(served: Served, method: str) -> None:
    response = await served.http.request(method, "/graphql")
    assert code(response, 405) == "BAD_USER_INPUT"
    assert response.headers["allow"] == "GET, POST"


async def test_the_context_knows_the_headers(served: Served) -> None:
    assert (await post(served, {"query": "{ actor }"}, **{"x-actor": "ada"})).json() == {"data": {"actor": "ada"}}


@pytest.mark.parametrize("accept", [JSON, RESPONSE])
async def test_who_is_refused_is_told_so(served: Served, accept: str) -> None:
    unknown = await post(served, {"query": "{ actor }"}, accept=accept, **{"x-actor": "nobody"})
    assert code(unknown, 401) == "UNAUTHENTICATED"
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert code(await post(served, {"query": "{ actor }"}, accept=accept, **{"x-actor": "outcast"}), 403) == "FORBIDDEN"


async def test_a_bug_is_masked_and_logged_under_its_id(served: Served) -> None:
    for body, headers in [({"query": "{ actor }"}, {"x-actor": "bug"}), ({"query": "{ unwritable }"}, {})]:
        with capture_logs() as logs:
            problem = error(await post(served, body, **headers), 500)
        assert problem["message"] == "Internal server error"
        assert problem["extensions"] == {"code": "INTERNAL_SERVER_ERROR", "errorId": logs[0]["error_id"]}
        assert isinstance(logs[0]["exc_info"], Exception)


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_bug(served: Served) -> None:
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await post(served, {"query": "{ actor }"})
        writer.close()
        await post(served, {"query": "{ actor }"})
        await served.server.shutdown()
    assert logs == []


async def test_half_a_surrogate_pair_is_replaced(served: Served) -> None:
    body = rb'{"query": "query($t: String!) { echo(text: $t) }", "variables": {"t": "a\ud83d"}}'
    response = await served.http.post("/graphql", content=body, headers={"content-type": JSON})
    assert response.json() == {"data": {"echo": "a�"}}
