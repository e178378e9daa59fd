"""The database's tables, as migration 0001 and later ones create them.

A part with tables of its own declares them on the same :data:`metadata` in its own module and adds a migration
``migrations/versions/NNNN_<what>.py`` with the next number.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC on both sides: ``timestamptz`` in PostgreSQL, text in SQLite, which forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

observations = Table(
    "observations",
    metadata,
    # The key's order serves the report's question "this asset's metric, newest first".
    Column("asset", String(64), primary_key=True),
    Column("metric", String(64), primary_key=True),
    Column("observed_at", UtcDateTime, primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("fetched_at", UtcDateTime, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("value", Float),
    Column("text", Text),
    Column("unit", String(16), nullable=False),
    Column("recorded", Boolean, nullable=False),
    Index("observations_metric", "metric", "observed_at"),
    Index("observations_time", "observed_at"),
    sqlite_with_rowid=False,
)

candles = Table(
    "candles",
    metadata,
    Column("asset", String(64), primary_key=True),
    Column("interval", String(4), primary_key=True),
    Column("closed_at", UtcDateTime, primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("open", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("low", Float, nullable=False),
    Column("close", Float, nullable=False),
    Column("volume", Float, nullable=False),
    Column("quote", String(16), nullable=False),
    Column("fetched_at", UtcDateTime, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("recorded", Boolean, nullable=False),
    Index("candles_time", "closed_at"),
    sqlite_with_rowid=False,
)

gaps = Table(
    "gaps",
    metadata,
    # Bars that an exchange says it does not have, so that they are not asked for again each hour.
    Column("asset", String(64), primary_key=True),
    Column("interval", String(4), primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("closed_at", UtcDateTime, primary_key=True),
    sqlite_with_rowid=False,
)

headlines = Table(
    "headlines",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("source", String(128), nullable=False),
    Column("outlet", String(256), nullable=False),
    Column("title", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("assets", Text, nullable=False),
    Column("published_at", UtcDateTime, nullable=False),
    Column("fetched_at", UtcDateTime, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("recorded", Boolean, nullable=False),
    Index("headlines_time", "published_at"),
)

network = Table(
    "network",
    metadata,
    Column("asset", String(64), primary_key=True),
    Column("observed_at", UtcDateTime, primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("fetched_at", UtcDateTime, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("epoch", Integer),
    Column("tick", BigInteger),
    Column("tick_duration", Float),
    Column("ticks_in_epoch", BigInteger),
    Column("empty_ticks", BigInteger),
    Column("tick_quality", Float),
    Column("active_addresses", BigInteger),
    Column("circulating_supply", BigInteger),
    Column("burned", BigInteger),
    Column("price", Float),
    Column("market_cap", Float),
    Column("recorded", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

quarantine = Table(
    "quarantine",
    metadata,
    # What a source sent that could not be believed; kept to be looked at, never used.
    Column("source", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
    Column("times", Integer, nullable=False),
)

quotas = Table(
    "quotas",
    metadata,
    # Calls counted a day (``2026-01-31``) and a minute (``2026-01-31T10:05``), UTC.
    Column("source", String(64), primary_key=True),
    Column("period", String(16), primary_key=True),
    Column("calls", Integer, nullable=False),
)

sources = Table(
    "sources",
    metadata,
    # One row a source: its health and its circuit breaker, so that both outlive the process.
    Column("source", String(64), primary_key=True),
    Column("last_success", UtcDateTime),
    Column("last_failure", UtcDateTime),
    Column("reason", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("blocked_until", UtcDateTime),
)

validators = Table(
    "validators",
    metadata,
    # ETag and Last-Modified of replies whose contents are stored.
    Column("url", Text, primary_key=True),
    Column("etag", Text, nullable=False),
    Column("last_modified", Text, nullable=False),
    Column("stored_at", UtcDateTime, nullable=False),
)

forecasts = Table(
    "forecasts",
    metadata,
    # A forecast is written when it is made and its outcome added later: the only honest track record.
    Column("asset", String(64), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("made_at", UtcDateTime, primary_key=True),
    Column("target_at", UtcDateTime, primary_key=True),
    Column("source", String(64), nullable=False),
    Column("written_at", UtcDateTime, nullable=False),
    Column("direction", String(8), nullable=False),
    Column("probability", Float, nullable=False),
    Column("price", Float, nullable=False),
    Column("target_price", Float),
    Column("low", Float),
    Column("high", Float),
    Column("outcome_price", Float),
    Column("resolved_at", UtcDateTime),
    Index("forecasts_open", "resolved_at", "target_at"),
    sqlite_with_rowid=False,
)
