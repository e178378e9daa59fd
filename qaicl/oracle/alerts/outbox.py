"""Delivers what the engine put into the outbox, over restarts, dead receivers and other deliverers.

A message is claimed (``sending``, for :data:`CLAIM` seconds), delivered, marked ``sent``. The claim is one row of the
database changed in one transaction, timed by the clock that all deliverers share, and every sink gives up before it
runs out: so of any number of threads, processes and machines one sends at a time.

A process killed between the last two steps leaves a message claimed, and nobody knows whether it arrived. When the
claim has run out it is sent again **with the same key**; the log, the monitor and a webhook that honours
``Idempotency-Key`` recognise it and take it once. Mail and Telegram know no such key: there a message arrives at least
once, or with the sink's ``at_most_once`` at most once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select, update

from qaicl.errors import SinkError
from qaicl.oracle.alerts.model import Message
from qaicl.oracle.alerts.tables import alert_history, alert_outbox
from qaicl.oracle.store import Store

CLAIM = 60.0
"""Seconds that a process has for one delivery."""
DEADLINE = 30.0
"""Seconds that a sink takes at most, however slowly the receiver drips; well below the claim."""
TIMEOUT = 15.0
"""Seconds that a sink waits for one answer."""
AGAIN = "mend the sink's secret, then run: qaicl oracle alerts retry"
BACKOFF = 5.0
LONGEST_BACKOFF = 3600.0
LONGEST_WAIT = 86_400.0
"""However long a receiver asks to be left alone."""


class Sink(Protocol):
    """Where messages go."""

    at_most_once: bool

    def deliver(self, message: Message) -> None:
        """Hand the message over, within :data:`DEADLINE` seconds.

        Raises:
            SinkError: it was not taken, or nobody knows.
        """
        ...


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message in the outbox."""

    key: str
    sink: str
    state: str
    """``pending``, ``sending``, ``sent``, ``refused`` (the operator must mend something first) or ``unknown`` (an
    at-most-once message whose fate nobody knows). The last two are sent again by :meth:`Outbox.retry` only."""
    attempts: int
    created_at: datetime
    next_at: datetime
    reason: str
    sent_at: datetime | None
    subject: str


class Delivered(msgspec.Struct, frozen=True):
    """What came of one round."""

    sent: int = 0
    failed: tuple[str, ...] = ()
    """``sink: reason`` of each message that was tried in vain."""

    def __str__(self) -> str:
        """For a log; empty where nothing was tried."""
        done = [f"{self.sent} messages delivered"] if self.sent or self.failed else []
        return "; ".join([*done, *(f"not delivered to {reason}" for reason in self.failed)])


@dataclass(frozen=True)
class _Claimed:
    key: str
    sink: str
    message: Message
    attempts: int
    token: str


class Outbox:
    """The messages of one store.

    Args:
        clock: None is the database's own: machines that share it need not agree on the time.
    """

    def __init__(self, store: Store, sinks: Mapping[str, Sink], clock: Callable[[], datetime] | None = None) -> None:
        self._store = store
        self._sinks = sinks
        self._clock = clock or store.clock

    def deliver(self) -> Delivered:
        """Try every message that is due, oldest first; failures stay, with a reason.

        A sink that failed gets no other message in this round: a dead one must not hold up the others for long.

        Raises:
            OracleStoreError: the database fails.
        """
        table = alert_outbox
        query = (
            select(table.c.key, table.c.sink).where(_is_due(self._clock())).order_by(table.c.created_at, table.c.key)
        )
        with self._store.reading() as connection:
            due = connection.execute(query).all()
        sent, failed = 0, {}
        for key, sink in due:
            if sink in failed or (claimed := self._claim(key)) is None:
                continue
            if reason := self._deliver(claimed):
                failed[sink] = reason
            else:
                sent += 1
        return Delivered(sent, tuple(f"{sink}: {reason}" for sink, reason in failed.items()))

    def _deliver(self, claimed: _Claimed) -> str:
        """Hand a claimed message over. Returns why it failed; empty where it did not."""
        sink = self._sinks.get(claimed.sink)
        try:
            if sink is None:
                raise SinkError(
                    f"no sink '{claimed.sink}'", why="the settings do not name it", fix="add it to alerts.sinks"
                )
            _deliver(sink, claimed.message)
        except SinkError as error:
            lost = error.unknown and sink is not None and sink.at_most_once
            self._failed(claimed, error, "unknown" if lost else "refused" if error.permanent else "pending")
            return str(error)
        self._sent(claimed)
        return ""

    def _claim(self, key: str) -> _Claimed | None:
        """Take the message for this process; None where another has it, or where it must not be sent again."""
        table, token = alert_outbox, secrets.token_hex(8)
        mine = table.c.key == key
        # Read for each message: those before it took their time, and a claim that begins in the past ends too early.
        now = self._clock()
        due = select(table).where(mine, _is_due(now))
        with self._store.writing() as connection:
            # PostgreSQL waits here for another claim and then looks again; SQLite has one writer at a time.
            row = connection.execute(due.with_for_update()).mappings().one_or_none()
            if row is None:
                return None
            sink = self._sinks.get(row["sink"])
            if row["state"] == "sending" and sink is not None and sink.at_most_once:
                gone = {"state": "unknown", "reason": "killed while sending; not sent again (at_most_once)"}
                connection.execute(update(table).where(mine).values(gone))
                return None
            ends = now + timedelta(seconds=CLAIM)
            taken = {"state": "sending", "next_at": ends, "attempts": row["attempts"] + 1, "claim": token}
            connection.execute(update(table).where(mine).values(taken))
        message = msgspec.json.decode(row["body"], type=Message)
        return _Claimed(key, row["sink"], message, row["attempts"], token)

    def _sent(self, claimed: _Claimed) -> None:
        # Whoever holds the claim by now: the message has arrived.
        now = self._clock()
        values = {"state": "sent", "next_at": now, "reason": "", "sent_at": now, "claim": None}
        with self._store.writing() as connection:
            connection.execute(update(alert_outbox).where(alert_outbox.c.key == claimed.key).values(values))
            connection.execute(insert(alert_history).values(_event(claimed, "delivered", claimed.message.subject, now)))

    def _failed(self, claimed: _Claimed, error: SinkError, state: str) -> None:
        # Only with the claim still held: another process may have delivered the message since.
        table, now = alert_outbox, self._clock()
        if error.retry_after is None:
            wait = min(BACKOFF * 2 ** min(claimed.attempts, 16), LONGEST_BACKOFF)
        else:
            wait = max(1.0, min(error.retry_after, LONGEST_WAIT))
        values = {
            "state": state,
            "next_at": now + timedelta(seconds=wait),
            "reason": str(error),
            "claim": None,
        }
        held = (table.c.key == claimed.key) & (table.c.claim == claimed.token)
        with self._store.writing() as connection:
            connection.execute(update(table).where(held).values(values))
            connection.execute(insert(alert_history).values(_event(claimed, "failed", str(error), now)))

    def retry(self, sink: str | None = None) -> int:
        """Make every refused or unknown message, of one sink or of all, due again. Returns how many."""
        table = alert_outbox
        again = update(table).where(table.c.state.in_(("refused", "unknown")))
        if sink is not None:
            again = again.where(table.c.sink == sink)
        with self._store.writing() as connection:
            return int(connection.execute(again.values(state="pending", next_at=self._clock(), attempts=0)).rowcount)

    def prune(self, before: datetime) -> int:
        """Forget messages that were sent, and the history, from before a moment. Returns how many.

        A message that still waits, was refused, or whose fate nobody knows stays.
        """
        sent = delete(alert_outbox).where(alert_outbox.c.state == "sent", alert_outbox.c.sent_at < before)
        told = delete(alert_history).where(alert_history.c.at < before)
        with self._store.writing() as connection:
            return sum(int(connection.execute(statement).rowcount) for statement in (sent, told))

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


def _is_due(now: datetime) -> ColumnElement[bool]:
    """Waiting or left behind, and its time has come; or lies so far ahead that the clock was wrong when it was set."""
    time, impossible = alert_outbox.c.next_at, now + timedelta(seconds=2 * LONGEST_WAIT)
    return alert_outbox.c.state.in_(("pending", "sending")) & ((time <= now) | (time > impossible))


def _event(claimed: _Claimed, event: str, text: str, now: datetime) -> dict[str, object]:
    return {
        "at": now,
        "fingerprint": claimed.key,
        "event": event,
        "labels": msgspec.json.encode(claimed.message.group, order="sorted").decode(),
        "level": claimed.message.level.value,
        "text": text,
    }


def _deliver(sink: Sink, message: Message) -> None:
    """Hand a message over; a mistake in one sink must not end the daemon, and the other sinks with it."""
    try:
        sink.deliver(message)
    except SinkError:
        raise
    except Exception as error:  # noqa: BLE001
        # The error's text is left out: it may quote a secret.
        raise SinkError(
            "the sink failed in a way that nobody thought of", unknown=True, why=type(error).__name__
        ) from None
