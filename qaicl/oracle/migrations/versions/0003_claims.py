"""A token for each claim of a message, so that a deliverer whose claim ran out cannot undo another's work."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("alert_outbox", sa.Column("claim", sa.String(16)))
