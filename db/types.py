"""Column types that behave alike on SQLite and PostgreSQL.

With `dialect.py` the only place that knows there are two databases; everything above speaks SQLAlchemy Core.
"""

from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import JSON, BigInteger, DateTime, Dialect, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Timestamp(TypeDecorator[datetime]):
    """An instant, in UTC. On SQLite microseconds since 1970, so that comparing numbers compares times."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return (value - _EPOCH) // _MICROSECOND if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return _EPOCH + timedelta(microseconds=value) if dialect.name == "sqlite" else value.astimezone(UTC)


# Ids sort by bytes on both databases; a locale would cost time and change the order.
Identifier = String().with_variant(String(collation="C"), "postgresql")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def dump_json(value: Any) -> str:
    """What the engine writes into JSON columns: dataclasses and enums as they are, keys in their order."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def plain(value: Any) -> Any:
    """A dataclass as a dict; anything else as it is."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
