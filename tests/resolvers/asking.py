"""A client without a wire: documents run on the real schema, for any tenant, with the SQL statements they cost."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

from graphql import GraphQLError
from sqlalchemy import event
from sqlalchemy.engine import Engine as SqlEngine
from strawberry import Schema
from strawberry.types.execution import ExecutionResult

from resolvers.build import build_schema
from resolvers.context import Limits, RequestContext
from schema.server import Viewer
from tests.rig import TENANT, Rig

LIMITS = Limits(version="1.2.3", max_page_size=200)


@dataclass(frozen=True)
class Client:
    rig: Rig
    tenant: str = TENANT
    schema: Schema = field(default_factory=build_schema)

    def context(self) -> RequestContext:
        viewer, rig = Viewer(actor="tester", tenant=self.tenant), self.rig
        return RequestContext(viewer=viewer, engine=rig.engine, reader=rig.reader, feed=rig.feed, limits=LIMITS)

    async def run(self, document: str, **variables: object) -> ExecutionResult:
        return await self.schema.execute(document, variables, context_value=self.context())

    async def ask(self, document: str, **variables: object) -> dict[str, Any]:
        """The data of an operation that has no errors."""
        result = await self.run(document, **variables)
        assert not result.errors, result.errors
        assert result.data is not None
        return result.data

    async def refused(self, document: str, **variables: object) -> dict[str, Any]:
        """The extensions of the one error of an operation that is refused."""
        (error,) = (await self.run(document, **variables)).errors or []
        assert error.extensions is not None
        return error.extensions

    async def follow(self, document: str, **variables: object) -> AsyncGenerator[dict[str, Any]]:
        """The one root field of each result of a subscription that has no errors."""
        results = cast("AsyncGenerator[ExecutionResult]", await self.schema.subscribe(document, variables, context_value=self.context()))
        async with aclosing(results):
            async for result in results:
                assert not result.errors, result.errors
                assert result.data is not None
                (value,) = result.data.values()
                yield value

    async def not_followed(self, document: str, **variables: object) -> GraphQLError:
        """The error of a subscription that never starts."""
        results = cast("AsyncGenerator[ExecutionResult]", await self.schema.subscribe(document, variables, context_value=self.context()))
        (only,) = [result async for result in results]
        (error,) = only.errors or []
        assert only.data is None
        return error


_counted: ContextVar[list[str] | None] = ContextVar("_counted", default=None)


@contextmanager
def counted_statements() -> Generator[list[str]]:
    """Every statement executed by this task meanwhile, and by the tasks it starts; what the engine does in its own is not counted."""
    statements: list[str] = []

    def before(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if _counted.get() is statements:
            statements.append(statement)

    token = _counted.set(statements)
    event.listen(SqlEngine, "before_cursor_execute", before)
    try:
        yield statements
    finally:
        event.remove(SqlEngine, "before_cursor_execute", before)
        _counted.reset(token)
