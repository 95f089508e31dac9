"""What a reconciler has seen that nobody works on, and since when. Pure.

One look is not enough to hold a worker for dead: its heartbeat may only be late. And a look says nothing about others while our own
connection to the database is in doubt: after an outage every lease has run out, and every worker gets the time of a heartbeat to say
that it is still there. What nobody holds may be taken at once.
"""

from collections.abc import Iterable

from db.runs import Unattended


class Sightings:
    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[Unattended, float] = {}

    def forget(self) -> None:
        """The database could not be asked: what was seen before does not count."""
        self._since.clear()

    def confirmed(self, seen: Iterable[Unattended], *, now: float) -> list[Unattended]:
        """Those of what is seen now that nobody holds, or that were seen before, long enough ago, and at every look between.

        `now`: of any steady clock.
        """
        self._since = {one: self._since.get(one, now) for one in seen}
        return [one for one, since in self._since.items() if one.worker_id is None or now - since >= self._patience_s]

    def still(self, one: Unattended) -> bool:
        """Whether it was seen at the last look, too, for who has been told of it and was kept waiting."""
        return one in self._since
