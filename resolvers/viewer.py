"""Who is asking, where nobody has to prove it (AUTH=none): the word of the `X-Actor` and `X-Tenant` headers, or of `connection_init`."""

import re
from collections.abc import Mapping

from schema.server import Viewer

_ACTOR, _TENANT = "X-Actor", "X-Tenant"
_NOBODY_IN_PARTICULAR = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,127}")


class UnusableName(Exception):
    """An actor or a tenant that cannot be one."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} must be 1 to 128 letters, digits or any of _ . : @ + - and begin with a letter or a digit.")
        self.key = key


def unproven_viewer(headers: Mapping[str, str], params: Mapping[str, object] | None = None) -> Viewer:
    """`headers` in any case of letters; `params` is the payload of a socket's `connection_init`, and comes first. Raises UnusableName."""
    said: dict[str, object] = {key.lower(): value for key, value in (*headers.items(), *(params or {}).items())}
    return Viewer(actor=_name(said, _ACTOR), tenant=_name(said, _TENANT))


def _name(said: Mapping[str, object], key: str) -> str:
    value = said.get(key.lower())
    if value is None:
        return _NOBODY_IN_PARTICULAR
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UnusableName(key)
    return value
