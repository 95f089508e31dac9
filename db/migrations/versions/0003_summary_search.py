"""A trigram index for the search in summaries, on PostgreSQL. Without it the search is as right, only slower."""

import sys

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INDEX = "CREATE INDEX ix_conversations_summary ON conversations USING gin (summary gin_trgm_ops)"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        sys.stderr.write(
            f"pg_trgm cannot be created, so that searching summaries reads them all ({reason}); "
            f"have an administrator run: CREATE EXTENSION pg_trgm; {_INDEX};\n"
        )
    else:
        connection.execute(sa.text(_INDEX))
