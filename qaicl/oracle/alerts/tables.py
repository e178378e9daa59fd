"""The alerts' tables, as migrations 0002 and 0003 create them."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table, Text

from qaicl.oracle.tables import UtcDateTime, metadata

alerts = Table(
    "alerts",
    metadata,
    # The alerts that fire, and those resolved whose end is not told yet.
    Column("fingerprint", String(64), primary_key=True),
    Column("labels", Text, nullable=False),
    Column("level", String(16), nullable=False),
    Column("summary", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
)

alert_groups = Table(
    "alert_groups",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("told", Text, nullable=False),
    Column("messages", Integer, nullable=False),
)

alert_silences = Table(
    "alert_silences",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("match", Text, nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
)

alert_outbox = Table(
    "alert_outbox",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("sink", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(8), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("sent_at", UtcDateTime),
    # Which claim holds the message while it is being sent.
    Column("claim", String(16)),
    Index("alert_outbox_due", "state", "next_at"),
)

alert_history = Table(
    "alert_history",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("event", String(16), nullable=False),
    Column("labels", Text, nullable=False),
    Column("level", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Index("alert_history_time", "at"),
)
