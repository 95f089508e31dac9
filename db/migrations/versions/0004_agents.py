"""Agents: how their conversations are compacted, and whether those of a deleted one are all gone."""

import sqlalchemy as sa
from alembic import op

from db.types import Json, Timestamp

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ERASING = sa.text("deleted_at IS NOT NULL AND erased_at IS NULL")


def upgrade() -> None:
    # `{}` is read as the defaults: what existing agents get.
    op.add_column("agents", sa.Column("compaction_settings", Json, nullable=False, server_default=sa.text("'{}'")))
    op.add_column("agents", sa.Column("erased_at", Timestamp(), nullable=True))
    op.create_index("ix_agents_erasing", "agents", ["deleted_at"], unique=False, sqlite_where=_ERASING, postgresql_where=_ERASING)
