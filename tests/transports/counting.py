"""A small schema to carry over the wire: what it does waits for the test, and what becomes of it the test can see."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import strawberry
from graphql import GraphQLError
from starlette.requests import HTTPConnection
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig

from transports.outcome import Refused


class Counter:
    """One subscription as the test sees it: released step by step, known to have begun and to have ended."""

    def __init__(self) -> None:
        self.steps = asyncio.Semaphore(0)
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.yielded = 0


@dataclass
class Context:
    number: int
    actor: str
    world: "World"


@dataclass
class World:
    """All that the schema's resolvers know, and the `context_of` of its terms."""

    counters: defaultdict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    contexts: int = 0
    remembered: list[str] = field(default_factory=list[str])
    revoked: bool = False

    async def context_of(self, connection: HTTPConnection, params: Mapping[str, Any] | None) -> Context:
        actor = connection.headers.get("x-actor") or (params or {}).get("X-Actor", "default")
        if actor == "nobody":
            raise Refused("UNAUTHENTICATED", "Who are you?")
        if actor == "outcast" or self.revoked:
            raise Refused("FORBIDDEN", "Not you")
        if actor == "bug":
            raise RuntimeError("a secret of the server")
        self.contexts += 1
        return Context(self.contexts, actor, self)


Info = strawberry.Info[Context, None]


@strawberry.type
class Query:
    @strawberry.field
    def echo(self, text: str = "", number: int = 0) -> str:
        return text or str(number)

    @strawberry.field
    def actor(self, info: Info) -> str:
        return info.context.actor

    @strawberry.field
    def context_number(self, info: Info) -> int:
        return info.context.number

    @strawberry.field
    def fail(self) -> str | None:
        raise GraphQLError("It failed", extensions={"code": "NOT_FOUND"})

    @strawberry.field
    def unwritable(self) -> JSON:
        return JSON({1, 2})


@strawberry.type
class Mutation:
    @strawberry.mutation
    def remember(self, info: Info, text: str) -> int:
        info.context.world.remembered.append(text)
        return len(info.context.world.remembered)


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, info: Info, name: str, upto: int = 1_000_000) -> AsyncGenerator[int]:
        counter = info.context.world.counters[name]
        counter.begun.set()
        try:
            for number in range(1, upto + 1):
                await counter.steps.acquire()
                yield number
        finally:
            counter.ended.set()

    @strawberry.subscription
    async def flood(self, info: Info, name: str, times: int, size: int) -> AsyncGenerator[str]:
        counter = info.context.world.counters[name]
        try:
            for counter.yielded in range(1, times + 1):
                yield "x" * size
                await asyncio.sleep(0)  # lets the others run, as sources do that have something to wait for
        finally:
            counter.ended.set()

    @strawberry.subscription
    async def breaks(self, after: int) -> AsyncGenerator[int]:
        for number in range(1, after + 1):
            yield number
        raise GraphQLError("It broke", extensions={"code": "NOT_FOUND"})


schema = strawberry.Schema(Query, Mutation, Subscription, config=StrawberryConfig(disable_field_suggestions=True))
