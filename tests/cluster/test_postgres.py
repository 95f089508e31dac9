"""The ladder by which tests come to a PostgreSQL: each rung, their order, and what is left behind."""

from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from cluster import postgres


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def make_initdb(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "initdb").touch(mode=0o755)
    return directory


async def test_the_first_rung_that_holds_serves(postgres_url: str) -> None:
    assert await ask(postgres_url, "SELECT 1") == 1


async def test_the_wheel_serves_and_leaves_nothing_behind() -> None:
    binaries = postgres.binaries_of_wheel()
    assert binaries
    with postgres.PostgresServer.running(binaries) as server:
        data = Path(str(await ask(server.url, "SHOW data_directory")))
        assert await ask(server.url, "SHOW server_encoding") == "UTF8"
    assert not data.exists()
    with pytest.raises(ConnectionRefusedError):
        await ask(server.url, "SELECT 1")


def test_a_server_that_is_given_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://me:secret@db.example/postgres")
    with postgres.postgres() as url:
        assert url == "postgresql+asyncpg://me:secret@db.example/postgres"


def test_initdb_on_the_path_comes_before_debians(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_path = make_initdb(tmp_path / "bin")
    make_initdb(tmp_path / "debian" / "17" / "bin")
    monkeypatch.setenv("PATH", str(on_path))
    assert postgres.binaries_of_machine(tmp_path / "debian") == on_path


def test_the_newest_of_debians_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    for version in ("9.6", "10", "17", "15"):
        make_initdb(tmp_path / version / "bin")
    assert postgres.binaries_of_machine(tmp_path) == tmp_path / "17" / "bin"
    assert postgres.binaries_of_machine(tmp_path / "nothing") is None


def test_what_does_not_start_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(postgres.NoPostgres, match=r"^.*initdb: .*$"), postgres.PostgresServer.running(tmp_path):
        pass


async def test_a_fresh_database_is_a_copy_of_its_template_and_goes_away(postgres_url: str) -> None:
    async with postgres.fresh_database(postgres_url) as template:
        await postgres.execute(template, "CREATE TABLE seen AS SELECT 42 AS answer")
        async with postgres.fresh_database(postgres_url, template=template) as copy:
            assert await ask(copy, "SELECT answer FROM seen") == 42
            await postgres.execute(copy, "DROP TABLE seen")
        assert await ask(template, "SELECT answer FROM seen") == 42
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await ask(copy, "SELECT 1")
