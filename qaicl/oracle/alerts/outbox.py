"""Delivers what the engine put into the outbox, over restarts and dead receivers.

A message is claimed (``sending``, for :data:`CLAIM` seconds), delivered, marked ``sent``. A process killed between the
last two leaves it claimed, and nobody knows whether it arrived. When the claim has run out it is sent again **with the
same key**; the log, the monitor and a webhook that honours ``Idempotency-Key`` recognise it and take it once. Mail and
Telegram know no such key: there a message arrives at least once, or with the sink's ``at_most_once`` at most once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from sqlalchemy import insert, select, update

from qaicl.errors import SinkError
from qaicl.oracle.alerts.model import Message
from qaicl.oracle.alerts.tables import alert_history, alert_outbox
from qaicl.oracle.store import Store

CLAIM = 60.0
"""Seconds that a process has for one delivery; longer than any sink's own timeout."""
BACKOFF = 5.0
LONGEST_BACKOFF = 3600.0


class Sink(Protocol):
    """Where messages go."""

    at_most_once: bool

    def deliver(self, message: Message) -> None:
        """Hand the message over.

        Raises:
            SinkError: it was not taken, or nobody knows.
        """
        ...


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message in the outbox."""

    key: str
    sink: str
    state: str
    """``pending``, ``sending``, ``sent`` or ``unknown`` (an at-most-once message whose fate nobody knows)."""
    attempts: int
    created_at: datetime
    next_at: datetime
    reason: str
    sent_at: datetime | None
    subject: str


class Outbox:
    """The messages of one store."""

    def __init__(self, store: Store, sinks: Mapping[str, Sink]) -> None:
        self._store = store
        self._sinks = sinks

    def deliver(self, now: datetime) -> int:
        """Try every message that is due, oldest first. Returns how many were delivered; failures stay, with a reason.

        Raises:
            OracleStoreError: the database fails.
        """
        table = alert_outbox
        query = (
            select(table.c.key)
            .where(table.c.state.in_(("pending", "sending")), table.c.next_at <= now)
            .order_by(table.c.created_at, table.c.key)
        )
        with self._store.reading() as connection:
            due = list(connection.execute(query).scalars())
        return sum(self._deliver(key, now) for key in due)

    def _deliver(self, key: str, now: datetime) -> bool:
        claimed = self._claim(key, now)
        if claimed is None:
            return False
        name, message, attempts = claimed
        sink = self._sinks.get(name)
        try:
            if sink is None:
                raise SinkError(f"no sink '{name}'", why="the settings do not name it", fix="add it to alerts.sinks")
            sink.deliver(message)
        except SinkError as error:
            wait = error.retry_after or min(BACKOFF * 2**attempts, LONGEST_BACKOFF)
            self._mark(key, "pending", now, next_at=now + timedelta(seconds=wait), reason=str(error), message=message)
            return False
        self._mark(key, "sent", now, next_at=now, reason="", message=message)
        return True

    def _claim(self, key: str, now: datetime) -> tuple[str, Message, int] | None:
        """Take the message for this process; None where another has it, or where it must not be sent again."""
        table = alert_outbox
        with self._store.writing() as connection:
            row = connection.execute(select(table).where(table.c.key == key).with_for_update()).mappings().one()
            if row["state"] not in ("pending", "sending") or row["next_at"] > now:
                return None
            sink = self._sinks.get(row["sink"])
            if row["state"] == "sending" and sink is not None and sink.at_most_once:
                gone = {"state": "unknown", "reason": "killed while sending; not sent again (at_most_once)"}
                connection.execute(update(table).where(table.c.key == key).values(gone))
                return None
            connection.execute(
                update(table)
                .where(table.c.key == key)
                .values(state="sending", next_at=now + timedelta(seconds=CLAIM), attempts=row["attempts"] + 1)
            )
        return row["sink"], msgspec.json.decode(row["body"], type=Message), row["attempts"]

    def _mark(self, key: str, state: str, now: datetime, *, next_at: datetime, reason: str, message: Message) -> None:
        table = alert_outbox
        values = {"state": state, "next_at": next_at, "reason": reason, "sent_at": now if state == "sent" else None}
        event = {
            "at": now,
            "fingerprint": key,
            "event": "delivered" if state == "sent" else "failed",
            "labels": msgspec.json.encode(message.group, order="sorted").decode(),
            "level": message.level.value,
            "text": reason or message.subject,
        }
        with self._store.writing() as connection:
            connection.execute(update(table).where(table.c.key == key).values(values))
            connection.execute(insert(alert_history).values(event))

    def waiting(self) -> list[Delivery]:
        """What is not delivered yet, oldest first."""
        table = alert_outbox
        query = select(table).where(table.c.state != "sent").order_by(table.c.created_at, table.c.key)
        with self._store.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Delivery(
                subject=msgspec.json.decode(row["body"], type=Message).subject,
                **{name: row[name] for name in Delivery.__struct_fields__ if name != "subject"},
            )
            for row in rows
        ]
