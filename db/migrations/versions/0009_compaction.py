"""Steps that write summaries are told from those that answer, and the last step of a conversation is found without its runs."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("kind", sa.String(), nullable=False, server_default=sa.text("'RESPONSE'")))
    op.create_index("ix_steps_conversation", "steps", ["conversation_id", "started_at"], unique=False)
