"""Every shape of `Accept` that clients are known to send, and some that none should."""

import pytest

from transports.accept import preferred

JSON, RESPONSE, HTML = "application/json", "application/graphql-response+json", "text/html"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "offer"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("Application/GraphQL-Response+JSON; charset=utf-8", RESPONSE),
        ("application/graphql-response+json, application/json;q=0.9", RESPONSE),
        ("application/json, application/graphql-response+json", JSON),
        ("application/json;q=0.5, application/graphql-response+json", RESPONSE),
        ("application/graphql-response+json;q=0, */*;q=0.1", JSON),
        (CHROME, HTML),
        ("application/json;q=what, text/html;q=0.1", HTML),
        ("text/plain", None),
        ("text/event-stream, text/*", HTML),
        (",;q=", JSON),
        (";;;", JSON),
    ],
)
def test_the_offer_that_is_liked_best_is_taken(accept: str, offer: str | None) -> None:
    assert preferred(accept, (JSON, RESPONSE, HTML)) == offer
