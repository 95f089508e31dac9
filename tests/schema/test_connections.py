"""The arguments that ask for a page."""

from strawberry import UNSET

from schema.connections import PageArguments


def test_absent_and_null_arguments_are_the_same() -> None:
    assert PageArguments.given(UNSET, UNSET, UNSET, UNSET) == PageArguments.given(None, None, None, None) == PageArguments()


def test_a_page_of_nothing_is_not_an_absent_page() -> None:
    assert PageArguments.given(0, None, UNSET, "x") == PageArguments(first=0, before="x")
