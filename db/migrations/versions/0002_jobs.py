"""Procrastinate's tables, on PostgreSQL."""

from alembic import op

from db.procrastinate import bring_up

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        bring_up(connection, through="03.04.00_50_post_add_retry_failed_job_procedure")
