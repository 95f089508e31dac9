"""Estimates of tokens: exact where the vocabulary is OpenAI's, the same for long texts as for short ones, and for any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.tokens import count


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("Hello, world!", 4), ("antidisestablishmentarianism", 6), ("<|endoftext|>", 7)])
def test_a_count_is_that_of_the_vocabulary(text: str, tokens: int) -> None:
    assert count(text) == tokens


def test_long_texts_are_counted_in_pieces() -> None:
    once = count("All work and no play. " * 100)
    assert count("All work and no play. " * 100_000) == pytest.approx(1000 * once, rel=0.01)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_can_be_counted(text: str) -> None:
    assert 0 <= count(text) <= len(text.encode())
