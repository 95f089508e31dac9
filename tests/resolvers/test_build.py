"""The schema as a whole: everything is described, the printed file is current, and documents are held to their limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    build_ast_schema,
    get_introspection_query,
    parse,
)
from graphql.type import is_introspection_type, is_specified_scalar_type

from resolvers.build import build_schema
from resolvers.complexity import MAX_DEPTH, MAX_TOKENS

SCHEMA = build_schema()


def _described() -> Iterator[tuple[str, str | None]]:
    for name, type_ in build_ast_schema(parse(SCHEMA.as_str())).type_map.items():
        if is_introspection_type(type_) or is_specified_scalar_type(type_):
            continue
        yield name, type_.description
        if isinstance(type_, GraphQLEnumType):
            yield from ((f"{name}.{key}", value.description) for key, value in type_.values.items())
        if isinstance(type_, GraphQLInputObjectType):
            yield from ((f"{name}.{key}", field.description) for key, field in type_.fields.items())
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for key, field in type_.fields.items():
                yield f"{name}.{key}", field.description
                yield from ((f"{name}.{key}({argument})", given.description) for argument, given in field.args.items())


def test_everything_has_a_description_of_one_plain_piece() -> None:
    described = dict(_described())
    assert len(described) > 300
    assert [name for name, words in described.items() if not words or "\n" in words or not words.endswith((".", "/"))] == []


def test_the_printed_schema_is_what_the_code_says() -> None:
    printed = Path(__file__).parents[2] / "schema" / "schema.graphql"
    assert printed.read_text() == SCHEMA.as_str() + "\n"


async def _code_of(document: str, **variables: object) -> str:
    result = await SCHEMA.execute(document, variables)
    codes = {(error.extensions or {})["code"] for error in result.errors or ()}
    (code,) = codes
    return code


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("{ viewer ", "GRAPHQL_PARSE_FAILED"),
        ("{ nobody }", "GRAPHQL_VALIDATION_FAILED"),
        ("query Q($id: ID!) { agent(id: $id) { id } }", "BAD_USER_INPUT"),
        ("{ " + "viewer { actor } " * MAX_TOKENS + "}", "QUERY_TOO_COMPLEX"),
    ],
)
async def test_documents_that_cannot_run_say_why(document: str, code: str) -> None:
    assert await _code_of(document) == code


async def test_variables_of_the_wrong_type_are_bad_input_and_named() -> None:
    result = await SCHEMA.execute("query Q($n: Int) { agents(first: $n) { totalCount } }", {"n": "many"})
    (error,) = result.errors or []
    assert error.extensions == {"code": "BAD_USER_INPUT"}
    assert "$n" in error.message


async def test_a_document_may_go_so_deep_and_no_deeper() -> None:
    below = (
        "{ agent(id: 1) "
        + "{ conversations { nodes { agent " * ((MAX_DEPTH - 2) // 3)
        + "{ id }"
        + " } } }" * ((MAX_DEPTH - 2) // 3)
        + " }"
    )
    beyond = (
        "{ agent(id: 1) " + "{ conversations { nodes { agent " * (MAX_DEPTH // 3 + 1) + "{ id }" + " } } }" * (MAX_DEPTH // 3 + 1) + " }"
    )
    assert await _code_of(beyond) == "QUERY_TOO_COMPLEX"
    assert "QUERY_TOO_COMPLEX" not in await _code_of(below)  # it is run, and fails for want of a context


async def test_fragments_that_multiply_are_walked_in_no_time() -> None:
    """Each spreads the next twice: 2^60 paths, and one node per fragment for a rule that remembers."""
    chain = [f"fragment F{i} on Agent {{ ...F{i + 1} ...F{i + 1} }}" for i in range(60)]
    document = "\n".join(["query { agent(id: 1) { ...F0 } }", *chain, "fragment F60 on Agent { nobody }"])
    assert await _code_of(document) == "GRAPHQL_VALIDATION_FAILED"


async def test_fragments_that_deepen_each_other_are_found_too_deep() -> None:
    chain = [f"fragment F{i} on Agent {{ conversations {{ nodes {{ agent {{ ...F{i + 1} }} }} }} }}" for i in range(10)]
    document = "\n".join(["query { agent(id: 1) { ...F0 } }", *chain, "fragment F10 on Agent { id }"])
    assert await _code_of(document) == "QUERY_TOO_COMPLEX"


async def test_cyclic_fragments_are_refused() -> None:
    document = "query { agent(id: 1) { ...A } } fragment A on Agent { id ...B } fragment B on Agent { id ...A }"
    assert await _code_of(document) == "GRAPHQL_VALIDATION_FAILED"


async def test_tools_may_read_the_schema() -> None:
    result = await SCHEMA.execute(get_introspection_query())
    assert not result.errors
