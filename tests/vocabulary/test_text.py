"""Storable text: what both databases take, and the same text whether it came whole or in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from vocabulary.text import Joiner, storable, storable_json

any_text = st.text(alphabet=st.sampled_from("a\0\ud83d\ude00é😀"), max_size=12) | st.text()


@given(any_text)
def test_storable_text_is_utf8_without_nul(text: str) -> None:
    assert b"\0" not in storable(text).encode()


@given(st.text())
def test_text_that_can_be_stored_is_left_alone(text: str) -> None:
    assert storable(text) == text.replace("\0", "\ufffd")


def test_each_nul_and_each_lone_half_becomes_one_replacement_character() -> None:
    assert storable("a\0b\ud83dc\ude00\ude00") == "a\ufffdb\ufffdc\ufffd\ufffd"


def test_halves_that_belong_together_are_joined() -> None:
    assert storable("a\ud83d\ude00b") == "a😀b"


@given(st.lists(any_text, max_size=6))
def test_pieces_come_to_the_same_as_the_whole(pieces: list[str]) -> None:
    joiner = Joiner()
    assert "".join(map(joiner.push, pieces)) + joiner.flush() == storable("".join(pieces))


def test_a_pair_cut_in_two_comes_whole_with_its_second_half() -> None:
    joiner = Joiner()
    assert [joiner.push("x\ud83d"), joiner.push("\ude00y"), joiner.flush()] == ["x", "😀y", ""]


def test_strings_inside_json_are_made_storable() -> None:
    assert storable_json({"a\0": ["\ud83d", 1, None, {"b": "c"}]}) == {"a\ufffd": ["\ufffd", 1, None, {"b": "c"}]}
