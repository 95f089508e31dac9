"""What is told of arguments that do not fit, and of schemas that are not fit for use; and that neither can take long, whatever they are."""

from typing import Any

import pytest

from runs.tools.schemas import complaint, flaw

WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"], "additionalProperties": False}


# ---- arguments


@pytest.mark.parametrize("arguments", ["null", "[1]", '"x"', "1"])
def test_arguments_that_are_no_object_do_not_fit(arguments: str) -> None:
    assert complaint(WORD, arguments) == "The arguments are not a JSON object."


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"word": "a', "unexpected end of data: line 1 column 12 (char 11)"),
        ('{"word": NaN}', "unexpected character, expected a JSON value: line 1 column 10 (char 9)"),
        (f'{{"word": {"[" * 64}{"]" * 64}}}', "nested deeper than 64 levels"),
    ],
)
def test_what_is_wrong_with_arguments_that_are_no_json_is_said(arguments: str, told: str) -> None:
    assert complaint(WORD, arguments) == f"The arguments cannot be read as JSON: {told}."


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{}", "'word' is a required property"),
        ('{"word": 5}', "word: 5 is not of type 'string'"),
        ('{"word": "a", "much": 1}', "Additional properties are not allowed ('much' was unexpected)"),
        (
            '{"word": 5, "much": 1}',
            "Additional properties are not allowed ('much' was unexpected); word: 5 is not of type 'string'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_all_named(arguments: str, told: str) -> None:
    assert complaint(WORD, arguments) == f"The arguments are not what the tool takes: {told}"


def test_arguments_that_fit_are_no_reason_to_complain() -> None:
    assert complaint(WORD, '{"word": "a"}') is None
    assert complaint({}, '{"anything": 1}') is None


def test_a_long_complaint_is_cut() -> None:
    assert len(complaint(WORD, f'{{"word": ["{"x" * 5000}"]}}') or "") < 600


def test_a_schema_that_names_another_place_is_not_followed_there() -> None:
    elsewhere = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    assert (complaint(elsewhere, '{"a": 1}') or "").startswith("The tool's parameters cannot be checked")


def test_a_schema_that_never_ends_is_an_error_return_like_any_other() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    assert complaint(endless, '{"a": 1}') == "The tool's parameters cannot be checked: they refer to themselves without end."


# ---- schemas


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


ELSEWHERE = "https://a.example/b"
TREE = {"properties": {"left": {"$ref": "#/$defs/tree"}}}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string"}, 'must be a JSON schema with "type": "object"'),
        ({"type": "object", "required": "a"}, "must be a JSON schema; $.required: 'a' is not of type 'array'"),
        ({"type": "object", "$ref": "#"}, "must not refer to itself without end"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, "must not refer to what is not in it, such as '/$defs/b'"),
        ({"type": "object", "properties": {"a": {"$ref": ELSEWHERE}}}, f"must not refer to what is not in it, such as '{ELSEWHERE}'"),
        (_nested(32), "must not be nested deeper than 64 levels"),
        (_nested(5000), "must not be nested deeper than 64 levels"),
    ],
)
def test_what_is_wrong_with_a_schema_is_said(schema: dict[str, Any], told: str) -> None:
    assert flaw(schema) == told


@pytest.mark.parametrize(
    "schema",
    [
        _nested(31),
        {"type": "object", "$defs": {"tree": TREE}, "properties": {"root": {"$ref": "#/$defs/tree"}}},
        {"type": "object", "$id": ELSEWHERE, "$defs": {"word": {"$anchor": "word"}}, "properties": {"a": {"$ref": "#word"}}},
        {"type": "object", "properties": {"$ref": {"type": "string"}, "a": {"const": {"$ref": "no reference at all"}}}},
    ],
)
def test_a_schema_may_refer_to_itself_where_that_has_an_end(schema: dict[str, Any]) -> None:
    assert flaw(schema) is None
