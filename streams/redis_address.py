"""What REDIS_URL may say, and what it comes to for a connection of the library.

Nothing connects here. What cannot be used is told without any value, since one may be a part of a password. Options about how a
connection is used are understood and have no effect: that is ours to say, as the code that reads the answers was written for it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from redis.asyncio.connection import parse_url

_OURS: Mapping[str, Any] = MappingProxyType(
    {
        "protocol": 2,
        "decode_responses": False,
        # Deadlines are ours: the library's own stand on asyncio.wait_for, which in Python 3.11 may swallow a cancellation.
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "health_check_interval": 0,
    }
)

_SECONDS, _YES_OR_NO, _ANYTHING = r"\d+(\.\d+)?", "(?i)true|false|yes|no|1|0", ".+"
_OPTIONS = MappingProxyType(
    {
        "client_name": "[!-~]+",
        "db": r"\d{1,5}",
        "decode_responses": _YES_OR_NO,
        "health_check_interval": r"\d+",
        "password": _ANYTHING,
        "protocol": "[23]",
        "socket_connect_timeout": _SECONDS,
        "socket_keepalive": _YES_OR_NO,
        "socket_timeout": _SECONDS,
        "username": _ANYTHING,
    }
)
_TLS_OPTIONS = MappingProxyType(
    {
        "ssl_ca_certs": _ANYTHING,
        "ssl_cert_reqs": "none|optional|required",
        "ssl_certfile": _ANYTHING,
        "ssl_check_hostname": _YES_OR_NO,
        "ssl_keyfile": _ANYTHING,
    }
)


class RedisAddressUnusable(Exception):
    """The message shows no value."""


def connection_options(address: str) -> dict[str, Any]:
    """For the library's pool. Raises RedisAddressUnusable."""
    _check(address)
    return {**parse_url(address), **_OURS}


def check_redis_address(address: str, *, cluster: bool) -> None:
    """Raises RedisAddressUnusable."""
    if connection_options(address).get("db") and cluster:
        raise RedisAddressUnusable("a cluster has no database but 0")


def _check(address: str) -> None:
    parts = _parts(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {**_OPTIONS, **(_TLS_OPTIONS if parts.scheme == "rediss" else {})}
    for name, value in options.items():
        if not re.fullmatch(known.get(name, "(?!)"), value):
            raise RedisAddressUnusable(f"the option {name} cannot be used")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise RedisAddressUnusable("the option ssl_keyfile cannot be used without ssl_certfile")


def _parts(address: str) -> SplitResult:
    """A password that was not percent-encoded may end up in any part, of which the name of an option would be shown."""
    try:
        parts = urlsplit(address)
        readable = parts.hostname and parts.port != 0 and re.fullmatch(r"/?\d{0,5}", parts.path)
    except ValueError:
        raise _unreadable() from None
    if not readable or "@" in parts.query or parts.fragment:
        raise _unreadable()
    return parts


def _unreadable() -> RedisAddressUnusable:
    return RedisAddressUnusable("it cannot be read (what is special in a password must be percent-encoded)")
