"""Who is asking, when nobody has to prove it."""

import pytest

from resolvers.viewer import UnusableName, unproven_viewer


def test_without_a_word_everybody_is_the_default() -> None:
    viewer = unproven_viewer({})
    assert (viewer.actor, viewer.tenant) == ("default", "default")


def test_headers_are_taken_at_their_word_in_any_case() -> None:
    viewer = unproven_viewer({"x-actor": "ann@example.org", "X-TENANT": "acme"})
    assert (viewer.actor, viewer.tenant) == ("ann@example.org", "acme")


def test_what_a_socket_says_at_its_start_comes_first() -> None:
    viewer = unproven_viewer({"x-actor": "ann", "x-tenant": "acme"}, {"X-Actor": "bob", "authorization": 1})
    assert (viewer.actor, viewer.tenant) == ("bob", "acme")


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "a\0", "ä", "-a", "a" * 129, 7, ["a"], {"a": 1}])
def test_names_that_cannot_be_one_are_refused(name: object) -> None:
    with pytest.raises(UnusableName) as refused:
        unproven_viewer({}, {"X-Tenant": name})
    assert refused.value.key == "X-Tenant"
