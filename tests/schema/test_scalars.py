"""The scalars on the wire."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from schema.scalars import rfc3339


def test_an_instant_is_written_in_utc_with_a_z() -> None:
    assert rfc3339(datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)) == "2026-01-31T12:00:00.123456Z"
    assert rfc3339(datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-31T10:00:00Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_survives_the_way_to_a_client(instant: datetime) -> None:
    assert datetime.fromisoformat(rfc3339(instant)) == instant
