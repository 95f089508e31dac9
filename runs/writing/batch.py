"""What is written in one go: each run's part of it, what a try to commit was granted, and what is known of tries without an answer.

No I/O; `writer.py` does what follows from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_urlsafe

from db.events import Probe
from db.heads import Claim, Granted, Grants
from runs.writing.pen import Pen
from runs.writing.writes import Write, ends, ordinals
from streams.log import Transaction


@dataclass(slots=True, eq=False)
class Part:
    """What one run has in one batch. `doubt`: the last try to commit it, whose outcome nobody has told us."""

    pen: Pen
    writes: Sequence[Write]
    skips: int = 0
    done: bool = False
    doubt: "Attempt | None" = None

    @property
    def ends(self) -> bool:
        return ends(self.writes[-1])

    def claim(self) -> Claim:
        """A part that ends its run takes one number more, for the conversation."""
        return Claim(
            conversation_id=self.pen.conversation_id,
            run_id=self.pen.lease.run.id,
            fence=self.pen.lease.fence,
            write_number=self.pen.write_number,
            sequences=len(self.writes) + self.ends,
            ordinals=ordinals(self.writes),
            tid=self.pen.head_tid,
        )

    def settle(self, granted: Granted) -> None:
        """What was granted to it has been committed."""
        if not self.done:
            self.done = True
            self.pen.head_tid = granted.tid
            self.pen.settled()

    def fail(self, failure: Exception) -> None:
        if not self.done:
            self.done = True
            self.pen.failed(failure)


@dataclass(slots=True, eq=False)
class Attempt:
    """One try to commit. `surfaced`: earlier tries that turned out to have happened. `dead`: known never to have happened.

    `nonce`: what it, and nothing else whatever, leaves in the log.
    """

    transaction: Transaction
    granted: dict[Part, Granted]
    skipped: list[Part]
    lost: list[Part]
    surfaced: list["Attempt"] = field(default_factory=list["Attempt"])
    dead: bool = False
    nonce: str = field(default_factory=lambda: token_urlsafe(9))

    def bury(self) -> None:
        """Whoever was granted its head once more, with its write number as it was, knows that what was tried before has failed for good,
        whatever becomes of this try.
        """
        for part in self.granted:
            if part.doubt is not None:
                part.doubt.dead = True

    def remember(self) -> None:
        """Should the outcome of the commit be unknown, this is what it would have been."""
        for part in self.granted:
            part.doubt = self

    def probe(self) -> Probe:
        """If its first event is in the log with its nonce, all of it is. That an event of the same run stands there would prove nothing:
        who cancels a run, or takes it over, writes for it too.
        """
        first = self.transaction.appended[0]
        return Probe(first.conversation_id, first.sequence, self.nonce)


def doubts_of(parts: Sequence[Part]) -> list[Attempt]:
    return list(dict.fromkeys(part.doubt for part in parts if not part.done and part.doubt is not None and not part.doubt.dead))


def sorted_out(claims: Mapping[Part, Claim], grants: Grants, transaction: Transaction) -> Attempt:
    granted: dict[Part, Granted] = {}
    skipped: list[Part] = []
    lost: list[Part] = []
    for part, claim in claims.items():
        if (first := grants.granted.get(claim)) is not None:
            granted[part] = first
        else:
            (skipped if claim in grants.skipped else lost).append(part)
    return Attempt(transaction, granted, skipped, lost)
