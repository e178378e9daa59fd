"""What a forecast was made of and when it was written down; the table of reports, which nothing ever filled."""

import sqlalchemy as sa
from alembic import op

from qaicl.oracle.tables import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_table("reports")
    # Of the forecasts so far neither is known: any exchange's bar is their outcome, and they were made soon before.
    op.add_column("forecasts", sa.Column("source", sa.String(64), nullable=False, server_default=""))
    begin = sa.text("'1970-01-01 00:00:00'")
    op.add_column("forecasts", sa.Column("written_at", UtcDateTime, nullable=False, server_default=begin))
    op.execute("UPDATE forecasts SET written_at = made_at")
