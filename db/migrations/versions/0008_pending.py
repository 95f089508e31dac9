"""Conversations know the request for which they wait."""

import sqlalchemy as sa
from alembic import op

from db.types import Identifier

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("conversations", sa.Column("pending_message_id", Identifier, nullable=True))
    op.create_index(
        "ix_conversations_pending",
        "conversations",
        ["pending_message_id"],
        unique=False,
        sqlite_where=sa.text("pending_message_id IS NOT NULL"),
        postgresql_where=sa.text("pending_message_id IS NOT NULL"),
    )
