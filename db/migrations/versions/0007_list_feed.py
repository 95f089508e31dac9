"""An index for the check of the list feed: which conversations of a tenant have changed lately."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_conversations_tenant_updated", "conversations", ["tenant", "updated_at"])
