"""What is told of arguments that do not fit, and of schemas that are not fit for use; and that neither can take long, whatever they are."""

import json
from typing import Any

import pytest

from runs.tools.schemas import complaint, flaw

ANYTHING: dict[str, Any] = {}
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
    assert complaint(ANYTHING, '{"anything": 1}') is None


def test_a_long_complaint_is_cut() -> None:
    assert len(complaint(WORD, f'{{"word": ["{"x" * 5000}"]}}') or "") < 600


def test_a_schema_that_names_another_place_is_not_followed_there() -> None:
    elsewhere = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    assert (complaint(elsewhere, '{"a": 1}') or "").startswith("The tool's parameters cannot be checked")


def test_a_schema_that_never_ends_is_an_error_return_like_any_other() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    assert complaint(endless, '{"a": 1}') == "The tool's parameters cannot be checked: they refer to themselves without end."


# ---- arguments that would cost more than they may

SAME_TWICE = {"properties": {"a": {"$ref": "#"}}, "required": ["b"]}
TOO_MUCH = "The arguments cannot be checked: comparing them with the tool's parameters takes too much work."


def _of_a(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


def _a(value: object) -> str:
    return json.dumps({"a": value})


def test_a_pattern_that_python_would_not_come_to_the_end_of_is_matched() -> None:
    evil = "a" * 5000 + "!"
    assert (complaint(_of_a({"pattern": "^(a+)+$"}), _a(evil)) or "").startswith("The arguments are not what the tool takes: a: 'aaa")
    assert complaint(_of_a({"pattern": "^(a+)+!$"}), _a(evil)) is None
    named = {"type": "object", "patternProperties": {"^(a+)+$": ANYTHING}, "additionalProperties": False}
    assert (complaint(named, json.dumps({evil: 1})) or "").endswith("…")
    assert complaint(named, _a(1)) is None


def test_a_pattern_that_must_backtrack_does_so_only_so_often() -> None:
    assert complaint(_of_a({"pattern": r"(?=a)(\w+)\1$"}), _a("abab")) is None
    for pattern, text in [(r"(?=a)^(a|aa)+\1$", "a" * 900 + "!"), (r"(?!b)a", "a" * 1001), ("a", "a" * 100_001)]:
        assert complaint(_of_a({"pattern": pattern}), _a(text)) == TOO_MUCH


@pytest.mark.parametrize("draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"])
def test_schemas_that_double_with_each_level_of_the_arguments_are_given_up(draft: str) -> None:
    arguments: object = 1
    for _ in range(50):
        arguments = {"a": arguments}
    doubling = {"type": "object", "$schema": draft, "anyOf": [SAME_TWICE, {**SAME_TWICE, "required": ["c"]}]}
    assert complaint(doubling, json.dumps(arguments)) == TOO_MUCH


def test_each_part_is_within_the_allowance_whatever_draft_it_says_it_is_of() -> None:
    inner = {"$schema": "http://json-schema.org/draft-07/schema#", "patternProperties": {"^(a+)+$": ANYTHING}}
    assert complaint(_of_a(inner), _a({"a" * 40 + "!": 1})) is None


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"allOf": [{"minProperties": 10**9}] * 3000}, {f"a{n}": 1 for n in range(50_000)}),
        ({"unevaluatedProperties": False, "properties": ANYTHING}, {f"a{n}": 1 for n in range(101)}),
        ({"unevaluatedItems": False, "prefixItems": [ANYTHING]}, [1] * 101),
        ({"items": {"enum": [[n] * 5 for n in range(4000)]}}, [[1] * 4] * 100_000),
    ],
)
def test_what_takes_too_much_work_is_told_as_unchecked(schema: dict[str, Any], value: object) -> None:
    assert complaint(_of_a(schema), _a(value)) == TOO_MUCH


def test_many_items_are_compared_with_each_other_at_once() -> None:
    unique = _of_a({"uniqueItems": True})
    assert complaint(unique, _a(["a", *range(30_000)])) is None
    assert complaint(unique, _a([1, True, "1", [1], [True], ANYTHING, []])) is None
    assert (complaint(unique, _a([{"b": [1]}, {"b": [1.0]}])) or "").endswith("has non-unique elements")


def test_what_is_left_over_is_found() -> None:
    additional = {"type": "object", "patternProperties": {"^x": ANYTHING}, "additionalProperties": False}
    assert (complaint(additional, '{"x1": 1, "y": 2}') or "").endswith("Additional properties are not allowed ('y' was unexpected)")
    unevaluated = {"type": "object", "allOf": [_of_a(ANYTHING)], "properties": {"b": ANYTHING}, "unevaluatedProperties": False}
    assert complaint(unevaluated, '{"a": 1, "b": 2}') is None
    assert (complaint(unevaluated, '{"a": 1, "c": 2}') or "").endswith("Unevaluated properties are not allowed ('c' was unexpected)")


# ---- schemas


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _doubling(place: str, levels: int) -> dict[str, Any]:
    """As small as it is, a value is compared with two to the power of `levels` schemas."""
    parts: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/{place}/a{n + 1}"}] * 2} for n in range(levels)}
    return {"type": "object", "$ref": f"#/{place}/a0", place: {**parts, f"a{levels}": ANYTHING}}


TOO_MANY = "must not compare a value with more than 1000 schemas, counting each where it is referred to"
ELSEWHERE = "https://a.example/b"
TREE = {"properties": {"left": {"$ref": "#/$defs/tree"}}}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string"}, 'must be a JSON schema with "type": "object"'),
        ({"type": "object", "required": "a"}, 'must be a JSON schema; $.required: "a" is not of type "array"'),
        ({"type": "object", "$ref": "#"}, "must not refer to itself without end"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, "must not refer to what is not in it, such as '/$defs/b'"),
        ({"type": "object", "properties": {"a": {"$ref": ELSEWHERE}}}, f"must not refer to what is not in it, such as '{ELSEWHERE}'"),
        (_doubling("$defs", 17), TOO_MANY),
        (_doubling("elsewhere", 17), TOO_MANY),
        (_of_a(_doubling("$defs", 1)) | {"$defs": _doubling("$defs", 60)["$defs"]}, TOO_MANY),
        ({"type": "object", "$id": "http://[::1"}, "must not hold an $id that is no URI: Invalid IPv6 URL"),
        (_of_a({"$ref": "http://[::1"}), "must not refer to what is not in it, such as 'http://[::1'"),
        ({"type": "object", "x": 5, "$ref": "#/x/5"}, "must not refer to what is not in it, such as '#/x/5'"),
        ({"type": "object", "x": [ANYTHING], "$ref": "#/x/foo"}, "must not refer to what is not in it, such as '#/x/foo'"),
        ({"type": "object", "x": {"allOf": 5}, "$ref": "#/x"}, 'must be a JSON schema; $.allOf: 5 is not of type "array"'),
        ({"type": "object", "$dynamicAnchor": "a", "$dynamicRef": "#a"}, "must not refer to itself without end"),
        (_of_a({"pattern": "("}), "must hold only patterns that can be matched, unlike '('"),
        (_of_a({"pattern": "(a{9999}){9999}"}), "must hold only patterns that can be matched, unlike '(a{9999}){9999}'"),
        (
            {"type": "object", "patternProperties": {"a": ANYTHING}, "unevaluatedProperties": False},
            "must not hold both patternProperties and unevaluatedProperties",
        ),
        ({"type": "object", "maximum": float("inf")}, "must hold only finite numbers, and integers of at most 64 bits"),
        ({"type": "object", "maximum": 1 << 64}, "must hold only finite numbers, and integers of at most 64 bits"),
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
        _doubling("$defs", 6),
        _of_a({"pattern": "^(?!.*[.]{2})[a-z.]{1,253}$"}),
        _of_a({"pattern": r"^[\s\S]{1,10000}$"}),
        {"type": "object", "$defs": {"tree": TREE}, "properties": {"root": {"$ref": "#/$defs/tree"}}},
        {"type": "object", "$id": ELSEWHERE, "$defs": {"word": {"$anchor": "word"}}, "properties": {"a": {"$ref": "#word"}}},
        {"type": "object", "properties": {"$ref": {"type": "string"}, "a": {"const": {"$ref": "no reference at all"}}}},
    ],
)
def test_a_schema_may_refer_to_itself_where_that_has_an_end(schema: dict[str, Any]) -> None:
    assert flaw(schema) is None
