"""Lines of the log that somebody can make something of."""

import socket
import sys

import pytest

from cluster.programs import Program, started
from telemetry.logs import name_wordless_error


def shown(error: Exception) -> str:
    """By a line that is logged while the error is handled."""
    try:
        raise error
    except type(error):
        return name_wordless_error(None, "warning", {"event": "trouble", "error": str(error)})["error"]


def test_an_error_is_shown_by_its_words_or_else_by_its_name() -> None:
    assert shown(OSError("no route")) == "no route"
    assert shown(TimeoutError()) == "TimeoutError()"


def test_an_error_in_a_group_is_shown_by_its_own_name() -> None:
    line = {}
    try:
        raise ExceptionGroup("two tasks", [ExceptionGroup("one of them", [TimeoutError()])])
    except* TimeoutError:
        line = name_wordless_error(None, "warning", {"event": "trouble", "error": ""})
    assert line["error"] == "TimeoutError()"


def test_a_line_about_no_error_stays_as_it_is() -> None:
    assert name_wordless_error(None, "info", {"event": "all is well"}) == {"event": "all is well"}
    assert name_wordless_error(None, "info", {"event": "once more", "error": ""}) == {"event": "once more", "error": ""}


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_a_program_whose_redis_says_nothing_says_what_the_trouble_is(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given = {"DATABASE_URL": database_url, "REDIS_URL": f"redis://127.0.0.1:{silent.getsockname()[1]}"}
        program = Program("worker", [sys.executable, "-m", "runs"], given, ready=r"no line to Redis.*error=(.*)")
        async with started(program) as worker:
            assert worker.announced == "TimeoutError()"
