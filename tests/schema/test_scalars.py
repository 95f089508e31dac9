"""The scalars on the wire."""

from datetime import UTC, datetime, timedelta, timezone

from graphql import parse_value
from hypothesis import given
from hypothesis import strategies as st

from schema.scalars import json_literal, rfc3339


def test_an_instant_is_written_in_utc_with_a_z() -> None:
    assert rfc3339(datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)) == "2026-01-31T12:00:00.123456Z"
    assert rfc3339(datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-31T10:00:00Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_survives_the_way_to_a_client(instant: datetime) -> None:
    assert datetime.fromisoformat(rfc3339(instant)) == instant


def test_a_variable_that_is_not_given_is_left_out_of_an_object_and_null_in_a_list() -> None:
    literal = parse_value("{ a: $a, b: [$b, { c: $a }], d: $d, e: 1.5 }")
    assert json_literal(literal, {"d": {"x": None}}) == {"b": [None, {}], "d": {"x": None}, "e": 1.5}
    assert json_literal(literal) == {"b": [None, {}], "e": 1.5}
