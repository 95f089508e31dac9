"""Few heads to a page: a new version of one finds its room beside the old one, and needs no entry in the index of keys."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE heads SET (fillfactor = 10)")
