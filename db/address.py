"""What DATABASE_URL may say: what both drivers that are led to PostgreSQL by it can take, ours and that of the jobs.

Nothing connects here. What cannot be used is told without any value, since one may be a part of a password.
"""

import re
from types import MappingProxyType
from typing import Any, cast

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

_ANYTHING = ".+"
_OPTIONS = MappingProxyType(
    {
        "host": _ANYTHING,
        "krbsrvname": _ANYTHING,
        "passfile": _ANYTHING,
        "port": "[0-9,]+",
        "prepared_statement_cache_size": "[0-9]{1,6}",
        "ssl": "disable|allow|prefer|require|verify-ca|verify-full",
        "target_session_attrs": "any|primary|standby|read-write|read-only|prefer-standby",
    }
)
_IN_LIBPQ = MappingProxyType({"database": "dbname", "ssl": "sslmode"})
_UNKNOWN_TO_LIBPQ = frozenset({"prepared_statement_cache_size"})


class DatabaseAddressUnusable(Exception):
    """The message shows no value."""


def check_database_address(address: str) -> None:
    """Raises DatabaseAddressUnusable."""
    try:
        url = make_url(address)
    except (SQLAlchemyError, ValueError):
        raise _unreadable() from None
    # A password that was not percent-encoded may end up in any part, of which the name of an option would be shown.
    if "@" in f"{url.host}{dict(url.query)}":
        raise _unreadable()
    taken = _OPTIONS if url.get_backend_name() == "postgresql" else dict[str, str]()
    for name, value in url.query.items():
        if not _matches(taken.get(name, "(?!)"), value, repeatable=name == "host"):
            raise DatabaseAddressUnusable(f"the option {name} cannot be used")
    _check_ports(url)


def _unreadable() -> DatabaseAddressUnusable:
    return DatabaseAddressUnusable("it cannot be read (what is special in a password must be percent-encoded)")


def _matches(pattern: str, value: str | tuple[str, ...], *, repeatable: bool) -> bool:
    values = (value,) if isinstance(value, str) else value
    return (repeatable or len(values) == 1) and all(re.fullmatch(pattern, one) for one in values)


def _check_ports(url: URL) -> None:
    try:
        ports = _listed(_driver_arguments(url).get("port"))
    except (SQLAlchemyError, ValueError):
        raise DatabaseAddressUnusable("its hosts and ports do not go together") from None
    if not all(port is None or 0 < port < 65536 for port in ports):
        raise DatabaseAddressUnusable("a port is a number from 1 to 65535")


def libpq_arguments(url: URL) -> dict[str, str]:
    """The same database for a driver that stands on libpq, which spells some things differently and lists with commas."""
    given = {_IN_LIBPQ.get(name, name): value for name, value in _driver_arguments(url).items() if name not in _UNKNOWN_TO_LIBPQ}
    return {name: ",".join(map(str, _listed(value))) for name, value in given.items()}


def _driver_arguments(url: URL) -> dict[str, Any]:
    """What SQLAlchemy makes of it for our own driver: several hosts are a list, and so are their ports."""
    _, arguments = url.get_dialect()().create_connect_args(url)
    return cast("dict[str, Any]", arguments)


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]
