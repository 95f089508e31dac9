"""The roots, the types and the rules of the server made into one executable schema."""

import strawberry
from graphql import GraphQLError
from strawberry.extensions import AddValidationRules, MaxTokensLimiter
from strawberry.schema.config import StrawberryConfig
from strawberry.types.execution import ExecutionContext

from resolvers.complexity import MAX_TOKENS, DepthRule
from resolvers.measured import CountedRequests
from resolvers.mutation import Mutation
from resolvers.problems import CodedParsing, CodedValidation, coded
from resolvers.query import Query
from resolvers.subscription import Subscription
from schema.compaction import CompactionStats
from schema.messages import MESSAGE_TYPES
from schema.scalars import SCALARS
from telemetry.metrics import Metrics


class CodedSchema(strawberry.Schema):
    """Every error leaves it with a code."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:  # noqa: ARG002
        errors[:] = map(coded, errors)


def build_schema(metrics: Metrics | None = None) -> strawberry.Schema:
    noted_in = metrics or Metrics()
    return CodedSchema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[*MESSAGE_TYPES, CompactionStats],
        config=StrawberryConfig(scalar_map=SCALARS),
        # The rule must be the same class each time: the cache of validated documents is keyed by it.
        extensions=[
            lambda: CountedRequests(noted_in),
            lambda: MaxTokensLimiter(MAX_TOKENS),
            lambda: AddValidationRules([DepthRule]),
            CodedParsing,
            CodedValidation,
        ],
    )
