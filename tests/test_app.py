"""The program from outside: what it refuses to start with, and what it answers besides GraphQL."""

import asyncio
import socket
import sqlite3
import sys
from asyncio.subprocess import PIPE
from contextlib import closing, suppress
from os import environ
from pathlib import Path

import httpx2

from cluster.programs import ROOT, START_S
from tests.e2e.server import serving

SECRET = "hunter2-hunter2"


async def refusal(**settings: str) -> str:
    """The one line with which it stops."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "app.py", cwd=ROOT, env={"PATH": environ["PATH"], "PORT": "0", **settings}, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(START_S):
            said, complained = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert (process.returncode, said) == (1, b"")
    *more, line = complained.decode().splitlines()
    assert not more, complained.decode()
    assert SECRET not in line
    return line


def url(database: Path) -> str:
    return f"sqlite+aiosqlite:///{database}"


async def test_a_wrong_setting_is_told_in_one_line_that_names_it(tmp_path: Path) -> None:
    here = url(tmp_path / "parley.db")
    lines = await asyncio.gather(
        refusal(PORT="many"),
        refusal(DATABASE_URL=f"postgresql+asyncpg://parley:{SECRET}@127.0.0.1/parley"),
        refusal(DATABASE_URL=here, DEFAULT_MODEL="demo/nobody"),
    )
    for line, name in zip(lines, ("PORT", "DATABASE_URL", "DEFAULT_MODEL"), strict=True):
        assert line.startswith(name)


async def test_a_database_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    nowhere, newer, none = tmp_path / "nowhere" / "parley.db", tmp_path / "newer.db", tmp_path / "none.db"
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('from_the_future')")
        connection.commit()
    none.write_text("This is no database, but a text that is a little longer than the header of one. " * 20)
    lines = await asyncio.gather(*(refusal(DATABASE_URL=url(path)) for path in (nowhere, newer, none)))
    for line, word in zip(lines, (str(nowhere), "from_the_future", str(none)), strict=True):
        assert word in line


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in await refusal(DATABASE_URL=url(tmp_path / "parley.db"), PORT=port)


async def test_a_database_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, httpx2.AsyncClient() as http:
        assert "parley.db is in use" in await refusal(DATABASE_URL=url(tmp_path / "parley.db"))
        assert (await http.get(server.url.replace("graphql", "readyz"))).json() == {
            "status": "ok",
            "database": "reachable",
            "bus": "attached",
        }


async def test_it_says_that_it_lives_and_is_ready_and_leads_to_graphql(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, httpx2.AsyncClient(base_url=server.url.removesuffix("/graphql")) as http:
        assert [(await http.get(path)).status_code for path in ("/healthz", "/readyz", "/nothing")] == [200, 200, 404]
        home = await http.get("/")
        assert (home.status_code, home.headers["location"]) == (307, "/graphql")
        assert (await http.get("/graphql", params={"query": "{ serverInfo { version } }"})).json() == {
            "data": {"serverInfo": {"version": "0.1.0"}}
        }
