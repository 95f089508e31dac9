"""Conversations: orders in which what has no time comes last, searching in summaries whatever their case, and forks that are being made."""

import sys

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

from db.types import Timestamp
from vocabulary.text import folded

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_AT_ONCE = 1000
_SEARCH = "CREATE INDEX ix_conversations_summary_folded ON conversations USING gin (summary_folded gin_trgm_ops)"
_FORKING = sa.text("forking_since IS NOT NULL")


def upgrade() -> None:
    connection = op.get_bind()
    op.add_column("conversations", sa.Column("summary_folded", sa.Text(), nullable=True))
    op.add_column("conversations", sa.Column("forking_since", Timestamp(), nullable=True))
    op.create_index(
        "ix_conversations_forking", "conversations", ["forking_since"], unique=False, sqlite_where=_FORKING, postgresql_where=_FORKING
    )
    _fold_summaries(connection)
    _index_orders(connection)
    if connection.dialect.name == "postgresql":
        _index_search(connection)


def _fold_summaries(connection: sa.Connection) -> None:
    query = sa.text("SELECT id, summary FROM conversations WHERE summary IS NOT NULL AND id > :last ORDER BY id LIMIT :most")
    last = ""
    while rows := connection.execute(query, {"last": last, "most": _AT_ONCE}).all():
        values = [{"id": row.id, "folded": folded(row.summary)} for row in rows]
        connection.execute(sa.text("UPDATE conversations SET summary_folded = :folded WHERE id = :id"), values)
        last = rows[-1].id


def _index_orders(connection: sa.Connection) -> None:
    postgresql = connection.dialect.name == "postgresql"
    ends = ("'-infinity'::timestamptz", "'infinity'::timestamptz") if postgresql else ("-1", str((1 << 63) - 1))
    for column, name in (("last_message_at", "last_message"), ("last_run_completed_at", "last_run")):
        op.drop_index(f"ix_conversations_tenant_{name}", "conversations")
        for end, direction in zip(ends, ("newest", "oldest"), strict=True):
            index = f"ix_conversations_{name}_{direction}"
            connection.exec_driver_sql(f"CREATE INDEX {index} ON conversations (tenant, coalesce({column}, {end}), id)")


def _index_search(connection: sa.Connection) -> None:
    """Instead of the one before, which knew only the database's own idea of case. Where there is no pg_trgm there was none."""
    op.execute("DROP INDEX IF EXISTS ix_conversations_summary")
    try:
        with connection.begin_nested():
            connection.execute(sa.text(_SEARCH))
    except DBAPIError:
        sys.stderr.write(f"pg_trgm is missing; once an administrator has created that extension, have them run: {_SEARCH};\n")
