"""What a reconciler has seen that nobody works on, and since when. Pure.

One look is not enough: the worker may be about to start, or its heartbeat may only be late. And a look says nothing about others
while our own connection to the database is in doubt: after an outage every lease has run out, and every worker gets the time of a
heartbeat to say that it is still there.
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
        """Those of what is seen now that were seen before, long enough ago, and at every look between. `now`: of any steady clock."""
        self._since = {one: self._since.get(one, now) for one in seen}
        return [one for one, since in self._since.items() if now - since >= self._patience_s]
