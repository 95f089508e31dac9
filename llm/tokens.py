"""How many tokens a text takes, estimated without asking anybody: OpenAI's vocabulary o200k, whose data come with the library.

For OpenAI's models since GPT-4o the count of a text is exact, but for one token at each seam of the pieces that long texts are cut into.
Others' vocabularies differ: expect 10 % more or less for English prose, and Anthropic's and Google's own counts up to a third above or
below this one for code and other scripts. What providers put around messages is not in it; `PER_MESSAGE` stands for that.
"""

from functools import cache
from typing import Protocol

ERROR = 1 / 3
"""By which share a provider's own count may lie below ours, or above."""

PER_MESSAGE = 4
"""Role and separators, as OpenAI's chat format has them."""

PER_IMAGE = 1_000
"""Nobody tells before it is sent. Providers take from 85 to some 1,600 tokens for one image."""

_PIECE = 50_000  # characters; the library refuses much longer texts


class _Vocabulary(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...


def count(text: str) -> int:
    """The first call loads the vocabulary: half a second and some 80 MB. About 10 MB of text a second; call it in a thread for more."""
    vocabulary = _vocabulary()
    return sum(len(vocabulary.encode_ordinary(text[start : start + _PIECE])) for start in range(0, len(text), _PIECE))


@cache
def _vocabulary() -> _Vocabulary:
    from bpe_openai import get_encoding  # pyright: ignore[reportMissingTypeStubs]

    return get_encoding("o200k_base")
