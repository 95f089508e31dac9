"""`/graphql`: GraphQL over HTTP with POST and GET, GraphiQL for a browser; sockets are handed on to `websocket`.

Whatever goes wrong is answered as a GraphQL response with a coded error. In the newer media type (application/graphql-response+json)
a request that was never run has status 400; in the older one everything that is a GraphQL request has 200, as both specify.
"""

from typing import Any, cast

from cross_web import AsyncHTTPRequestAdapter, HTTPException
from graphql import GraphQLError
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import MissingQueryError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.execution import ExecutionResult, PreExecutionError
from strawberry.types.graphql import OperationType

from transports.accept import preferred
from transports.operation import Malformed, decode, read_operation, read_query_string
from transports.outcome import BAD_USER_INPUT, INTERNAL_SERVER_ERROR, Refused, encode, error, masked, payload
from transports.sockets import Sockets
from transports.terms import Terms

HTML = "text/html"
JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"

RUNS_OVER = {"GET": {OperationType.QUERY}, "POST": {OperationType.QUERY, OperationType.MUTATION}}
STATUS_OF_REFUSAL = {"UNAUTHENTICATED": 401, "FORBIDDEN": 403}
HEADERS_OF_STATUS = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "GET, POST"}}


class Endpoint(GraphQL[Any, None]):
    def __init__(self, terms: Terms, *, sockets: Sockets, page: str) -> None:
        super().__init__(terms.schema, graphql_ide=None, allowed_origins=terms.allowed_origins)
        self._terms = terms
        self._sockets = sockets
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._pass_on(scope, receive, send)
        else:
            request = Request(scope, _limited(receive, self._terms.max_request_bytes))
            response = await self._respond(request)
            await response(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        if self._check_websocket_origin(websocket):
            await self._sockets(scope, receive, send)
        else:
            await self.reject_websocket(websocket)

    async def _respond(self, request: Request) -> Response:
        if _wants_page(request):
            return HTMLResponse(self._page, headers={"Vary": "Accept"})
        try:
            return await self.run(request)
        except Malformed as malformed:
            return self._refuse(request, 400, error(BAD_USER_INPUT, str(malformed)))
        except HTTPException as refused:
            return self._refuse(request, refused.status_code, error(BAD_USER_INPUT, refused.reason))
        except Refused as refused:
            return self._refuse(request, STATUS_OF_REFUSAL[refused.code], error(refused.code, str(refused)))
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody will read
        except Exception as bug:  # noqa: BLE001 a bug gets a GraphQL answer too; `masked` reports it
            return self._refuse(request, 500, masked(bug))

    def _refuse(self, request: Request, status: int, problem: dict[str, Any]) -> Response:
        self._terms.metrics.requests.labels("none", problem["extensions"]["code"]).inc()
        return _json({"errors": [problem]}, status, _media_type(request))

    def should_render_graphql_ide(self, request: object) -> bool:  # noqa: ARG002 the base's signature
        return False  # the page needs no context, so it is served before one is made

    async def get_context(self, request: HTTPConnection, response: object) -> object:  # noqa: ARG002 the base's signature
        return await self._terms.context_of(request, None)

    async def get_sub_response(self, request: HTTPConnection) -> Response:
        return Response(media_type=_media_type(request))

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        if request.method == "GET":
            return read_query_string(request.query_params)
        if (request.content_type or "").partition(";")[0].strip().lower() != JSON:
            raise HTTPException(415, "The Content-Type must be application/json")
        return read_operation(decode(await request.get_body()))

    async def execute_single(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        sub_response: Response,  # noqa: ARG002
        context: object,
        root_value: None,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        try:
            return await self.schema.execute(
                request_data.query,
                variable_values=request_data.variables,
                context_value=context,
                root_value=root_value,
                operation_name=request_data.operation_name,
                operation_extensions=request_data.extensions,
                allowed_operation_types=RUNS_OVER[request_adapter.method],
            )
        except CannotGetOperationTypeError as unknown:
            return PreExecutionError(None, [GraphQLError(unknown.as_http_error_reason(), original_error=unknown)])
        except MissingQueryError as missing:
            return PreExecutionError(None, [GraphQLError(str(missing), original_error=missing)])
        except InvalidOperationTypeError as refused:
            raise HTTPException(405, f"A {refused.operation_type.value} does not run over {request.method}") from None

    async def process_result(self, request: Request, result: ExecutionResult) -> GraphQLHTTPResponse:  # noqa: ARG002
        return GraphQLHTTPResponse(**payload(result))

    def create_response(self, response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse], sub_response: Response) -> Response:
        assert isinstance(response_data, dict), "a batch is refused before it runs"
        return _json(response_data, _status(response_data, sub_response.media_type), sub_response.media_type)


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """A body is refused at the first byte too many, whatever length was announced."""
    received = 0

    async def receive_within_limit() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(413, f"The request is larger than {max_bytes} bytes")
        return message

    return receive_within_limit


def _wants_page(request: Request) -> bool:
    asks_something = request.method != "GET" or "query" in request.query_params
    return not asks_something and preferred(request.headers.get("accept", ""), (JSON, GRAPHQL_RESPONSE, HTML)) == HTML


def _media_type(request: HTTPConnection) -> str:
    return preferred(request.headers.get("accept", ""), (JSON, GRAPHQL_RESPONSE)) or JSON


def _status(response: GraphQLHTTPResponse, media_type: str | None) -> int:
    if "data" in response or media_type != GRAPHQL_RESPONSE:
        return 200
    problems = cast("list[dict[str, Any]]", response.get("errors"))
    return 500 if any(problem["extensions"]["code"] == INTERNAL_SERVER_ERROR for problem in problems) else 400


def _json(body: object, status: int, media_type: str | None) -> Response:
    headers = {"Content-Type": f"{media_type}; charset=utf-8", "Vary": "Accept", **HEADERS_OF_STATUS.get(status, {})}
    return Response(encode(body), status, headers)
