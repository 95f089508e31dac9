"""Two looks at who is held for dead, long enough apart, with nothing in between that makes them worthless."""

from db.runs import Unattended
from runs.workers.sightings import Sightings

LEFT = Unattended("conv-1", "run-1", "worker-1", waits=False)
WAITING = Unattended("conv-2", "run-2", None, waits=True)


def test_one_look_is_enough_only_for_what_nobody_holds() -> None:
    assert Sightings(patience_s=3).confirmed([LEFT, WAITING], now=100) == [WAITING]


def test_what_is_seen_again_a_heartbeat_later_is_confirmed() -> None:
    sightings = Sightings(patience_s=3)
    assert [sightings.confirmed([LEFT], now=now) for now in (100, 102.9, 103, 110)] == [[], [], [LEFT], [LEFT]]


def test_what_was_attended_in_between_starts_anew() -> None:
    sightings = Sightings(patience_s=3)
    sightings.confirmed([LEFT], now=100)
    sightings.confirmed([], now=102)
    assert [sightings.confirmed([LEFT], now=now) for now in (104, 107)] == [[], [LEFT]]


def test_the_same_run_left_by_another_worker_starts_anew() -> None:
    sightings = Sightings(patience_s=3)
    sightings.confirmed([LEFT], now=100)
    assert sightings.confirmed([Unattended("conv-1", "run-1", "worker-2", waits=False)], now=104) == []


def test_an_error_of_the_database_makes_what_was_seen_before_it_worthless() -> None:
    sightings = Sightings(patience_s=3)
    sightings.confirmed([LEFT], now=100)
    sightings.forget()
    assert [sightings.confirmed([LEFT], now=now) for now in (104, 107)] == [[], [LEFT]]


def test_what_was_found_holds_as_long_as_it_is_seen() -> None:
    sightings = Sightings(patience_s=0)
    sightings.confirmed([LEFT, WAITING], now=100)
    assert sightings.still(LEFT)
    sightings.confirmed([WAITING], now=101)
    assert not sightings.still(LEFT)
    sightings.forget()
    assert not sightings.still(WAITING)


def test_without_patience_one_look_is_enough() -> None:
    """For the only owner of a database, to whom nobody else can be late."""
    assert Sightings(patience_s=0).confirmed([LEFT], now=100) == [LEFT]
