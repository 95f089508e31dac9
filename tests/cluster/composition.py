"""docker-compose.yml and the Dockerfile as a container engine reads them, as far as a test can: values filled in, files copied."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.programs import ROOT

_VARIABLE = re.compile(r"\$\{(\w+):-(\w*)\}")
_COPIED = re.compile(r"^COPY (?!--from)(.+) (\S+)$", re.MULTILINE)
_PUT_IN = re.compile(r"^!(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    definition: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        return self.definition["image"] == "parley"

    @property
    def environment(self) -> dict[str, str]:
        return self.definition.get("environment", {})

    @property
    def command(self) -> list[str]:
        return here(self.definition["command"])

    @property
    def health_check(self) -> list[str]:
        kind, *command = self.definition["healthcheck"]["test"]
        assert kind == "CMD"
        return here(command)

    @property
    def grace_s(self) -> float:
        return float(self.definition.get("stop_grace_period", "10s").removesuffix("s"))


def here(command: list[str]) -> list[str]:
    """With the Python that runs the tests."""
    return [sys.executable if word == "python" else word for word in command]


def services() -> dict[str, Service]:
    """As they are with nothing set outside."""
    text = _VARIABLE.sub(r"\2", (ROOT / "docker-compose.yml").read_text())
    return {name: Service(name, definition) for name, definition in yaml.safe_load(text)["services"].items()}


def copy_of_the_image(folder: Path) -> Path:
    """What the image holds of this repository: what is copied, and not ignored."""
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    put_in = {path for pattern in _PUT_IN.findall((ROOT / ".dockerignore").read_text()) for path in ROOT.glob(pattern)}
    for sources, target in _COPIED.findall(stages[-1]):
        for source in sources.split():
            assert ROOT / source in put_in, f"{source} is ignored"
            _copy(ROOT / source, folder / target / source if target == "./" else folder / target)
    return folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
