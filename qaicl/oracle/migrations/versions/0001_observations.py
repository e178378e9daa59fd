"""Observations, candles, headlines, network figures; quarantine, quotas, source health; reports and forecasts."""

import sqlalchemy as sa
from alembic import op

from qaicl.oracle.tables import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "observations",
        sa.Column("asset", sa.String(64), primary_key=True),
        sa.Column("metric", sa.String(64), primary_key=True),
        sa.Column("observed_at", UtcDateTime, primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("fetched_at", UtcDateTime, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("text", sa.Text),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("recorded", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("observations_metric", "observations", ["metric", "observed_at"])
    op.create_index("observations_time", "observations", ["observed_at"])
    op.create_table(
        "candles",
        sa.Column("asset", sa.String(64), primary_key=True),
        sa.Column("interval", sa.String(4), primary_key=True),
        sa.Column("closed_at", UtcDateTime, primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("open", sa.Float, nullable=False),
        sa.Column("high", sa.Float, nullable=False),
        sa.Column("low", sa.Float, nullable=False),
        sa.Column("close", sa.Float, nullable=False),
        sa.Column("volume", sa.Float, nullable=False),
        sa.Column("quote", sa.String(16), nullable=False),
        sa.Column("fetched_at", UtcDateTime, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("recorded", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("candles_time", "candles", ["closed_at"])
    op.create_table(
        "gaps",
        sa.Column("asset", sa.String(64), primary_key=True),
        sa.Column("interval", sa.String(4), primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("closed_at", UtcDateTime, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "headlines",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(128), nullable=False),
        sa.Column("outlet", sa.String(256), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("assets", sa.Text, nullable=False),
        sa.Column("published_at", UtcDateTime, nullable=False),
        sa.Column("fetched_at", UtcDateTime, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("recorded", sa.Boolean, nullable=False),
    )
    op.create_index("headlines_time", "headlines", ["published_at"])
    op.create_table(
        "network",
        sa.Column("asset", sa.String(64), primary_key=True),
        sa.Column("observed_at", UtcDateTime, primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("fetched_at", UtcDateTime, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("epoch", sa.Integer),
        sa.Column("tick", sa.BigInteger),
        sa.Column("tick_duration", sa.Float),
        sa.Column("ticks_in_epoch", sa.BigInteger),
        sa.Column("empty_ticks", sa.BigInteger),
        sa.Column("tick_quality", sa.Float),
        sa.Column("active_addresses", sa.BigInteger),
        sa.Column("circulating_supply", sa.BigInteger),
        sa.Column("burned", sa.BigInteger),
        sa.Column("price", sa.Float),
        sa.Column("market_cap", sa.Float),
        sa.Column("recorded", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantine",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("reason", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("first_seen", UtcDateTime, nullable=False),
        sa.Column("last_seen", UtcDateTime, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
    )
    op.create_table(
        "quotas",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("period", sa.String(16), primary_key=True),
        sa.Column("calls", sa.Integer, nullable=False),
    )
    op.create_table(
        "sources",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("last_success", UtcDateTime),
        sa.Column("last_failure", UtcDateTime),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("blocked_until", UtcDateTime),
    )
    op.create_table(
        "validators",
        sa.Column("url", sa.Text, primary_key=True),
        sa.Column("etag", sa.Text, nullable=False),
        sa.Column("last_modified", sa.Text, nullable=False),
        sa.Column("stored_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("asset", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("reports_asset", "reports", ["asset", "kind", "created_at"])
    op.create_table(
        "forecasts",
        sa.Column("asset", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("made_at", UtcDateTime, primary_key=True),
        sa.Column("target_at", UtcDateTime, primary_key=True),
        sa.Column("direction", sa.String(8), nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.Column("price", sa.Float, nullable=False),
        sa.Column("target_price", sa.Float),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("outcome_price", sa.Float),
        sa.Column("resolved_at", UtcDateTime),
        sqlite_with_rowid=False,
    )
    op.create_index("forecasts_open", "forecasts", ["resolved_at", "target_at"])
