"""Which of the answers we can give a client likes best, by its `Accept` header.

Pure; knows nothing of GraphQL. Equal wishes are decided by their order in the header, which clients use to say what they would rather have.
"""

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offer that is liked best, None if none is. Wildcards, and no header at all, take the first offer they fit."""
    wishes = sorted(map(_wish, accept.split(",")), key=lambda wish: -wish[1])
    return next((offer for media_range, quality in wishes if quality > 0 for offer in offers if _fits(media_range, offer)), None)


def _wish(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip() for piece in part.lower().split(";"))
    return media_range or "*/*", next((_quality(value[2:]) for value in parameters if value.startswith("q=")), 1.0)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _fits(media_range: str, offer: str) -> bool:
    return media_range in ("*/*", offer, f"{offer.partition('/')[0]}/*")
