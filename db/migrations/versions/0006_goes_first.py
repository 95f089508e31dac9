"""Which queued run goes before the queue: that of a send that interrupted another, or found nothing to wait for."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("goes_first", sa.Boolean(), nullable=False, server_default=sa.false()))
