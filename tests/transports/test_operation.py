"""What is read of a request, and that whatever is wrong with it is said, never raised as something else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.operation import Malformed, decode, read_operation, read_query_string
from transports.outcome import encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec=None, exclude_categories=())),
    lambda values: st.lists(values) | st.dictionaries(st.text(st.characters(codec=None, exclude_categories=())), values),
)


@given(json_values)
def test_whatever_json_holds_can_be_written_out_again(value: object) -> None:
    decoded = decode(json.dumps(value))
    assert decode(encode(decoded)) == decoded


def test_surrogate_pairs_are_joined_and_halves_replaced() -> None:
    assert decode(r'["\ud83d\ude00", "\ud83d!", "\ude00\u0000"]') == ["\U0001f600", "�!", "�\0"]


@pytest.mark.parametrize("text", ["", "{", "nope", "NaN", '{"a": Infinity}', b"\xff\xfe{", "[" * 100_000])
def test_what_is_not_json_is_malformed(text: str | bytes) -> None:
    with pytest.raises(Malformed, match="Not valid JSON"):
        decode(text)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ([{"query": "{a}"}], "Batches are not supported"),
        ("{a}", "The request must be an object"),
        (None, "The request must be an object"),
        (5, "The request must be an object"),
        ({}, "`query` must be a string"),
        ({"query": None}, "`query` must be a string"),
        ({"query": ["{a}"]}, "`query` must be a string"),
        ({"query": "{a}", "operationName": 1}, "`operationName` must be a string or null"),
        ({"query": "{a}", "variables": []}, "`variables` must be an object"),
        ({"query": "{a}", "variables": "{}"}, "`variables` must be an object"),
        ({"query": "{a}", "extensions": False}, "`extensions` must be an object"),
    ],
)
def test_a_request_of_another_shape_is_malformed(message: object, reason: str) -> None:
    with pytest.raises(Malformed) as malformed:
        read_operation(message)
    assert str(malformed.value) == reason
    assert len(reason.encode()) <= 123, "a close frame holds no more"


def test_a_query_string_holds_json_in_its_parts() -> None:
    operation = read_query_string({"query": "{a}", "variables": '{"n": 1}', "extensions": "", "operationName": "A"})
    assert (operation.query, operation.variables, operation.extensions, operation.operation_name) == ("{a}", {"n": 1}, None, "A")
