"""GraphiQL for browsers, from this process alone: its scripts and styles come from an installed package, not from another host.

The page is ours (`graphiql.html`); what its tabs hold at first is `tour.graphql`, each part of which starts with a numbered comment.
"""

from pathlib import Path

from starlette.staticfiles import StaticFiles

from transports.outcome import encode

HERE = Path(__file__).parent
PACKAGE = "graphene_django_graphiql_static"  # nothing of it is imported


def page() -> str:
    tour = encode((HERE / "tour.graphql").read_text("utf-8")).replace("<", "\\u003c")
    return (HERE / "graphiql.html").read_text("utf-8").replace('"TOUR"', tour)


def assets() -> StaticFiles:
    """To be mounted at `assets` under the path that `page` is served at."""
    return StaticFiles(packages=[(PACKAGE, f"static/{PACKAGE}")])
