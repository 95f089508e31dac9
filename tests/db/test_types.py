"""Instants: the same on both databases, to the microsecond, in their order; and the databases' own clocks."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, literal, select

from db.dialect import now, seconds_from_now
from db.engine import Database
from db.tables import workers

zones = st.integers(min_value=-14 * 60, max_value=14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(3000, 1, 1), timezones=zones)  # noqa: DTZ001
by_function = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@by_function
@given(st.lists(instants, min_size=1, max_size=8))
async def test_instants_come_back_as_they_were_and_sort_as_they_are(database: Database, given_instants: list[datetime]) -> None:
    async with database.write() as connection:
        await connection.execute(delete(workers))
        rows = [{"id": str(number), "started_at": at, "lease_expires_at": at} for number, at in enumerate(given_instants)]
        await connection.execute(insert(workers), rows)
        found = list((await connection.execute(select(workers.c.started_at).order_by(workers.c.started_at))).scalars())
        assert found == sorted(given_instants)
        assert all(at.tzinfo is UTC for at in found)
        before = select(workers.c.id).where(workers.c.started_at < given_instants[0])
        assert len((await connection.execute(before)).all()) == sum(at < given_instants[0] for at in given_instants)


async def test_the_clock_of_the_database_tells_the_time(database: Database) -> None:
    async with database.read() as connection:
        before = datetime.now(UTC)
        told, later = (await connection.execute(select(now(), seconds_from_now(literal(90.5))))).one()
        after = datetime.now(UTC)
    slack = timedelta(milliseconds=50)
    assert before - slack <= told <= after + slack
    assert before - slack <= later - timedelta(seconds=90.5) <= after + slack
