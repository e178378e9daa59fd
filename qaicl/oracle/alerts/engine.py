"""Decides which alerts fire and which messages are to be sent.

One call of :meth:`AlertEngine.evaluate` is one database transaction: the alerts' states, the groups, the history and
the messages in the outbox change together or not at all. So a process killed at any moment loses no alert and makes no
message twice: a message's key is its group and its number in the group.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, select, text, update

from qaicl.errors import UsageError
from qaicl.oracle.alerts.model import Alert, Condition, Event, Labels, Level, Message, Silence, fingerprint, matches
from qaicl.oracle.alerts.tables import alert_groups, alert_history, alert_outbox, alert_silences, alerts
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings

LOCK = 0x616C657274
"""PostgreSQL advisory lock of an evaluation: the letters ``alert``. SQLite's writers wait for each other anyway."""


class Told(NamedTuple):
    """What one message tells of."""

    firing: Sequence[Alert]
    ended: Sequence[Alert]


class AlertEngine:
    """The alerts of one store. Every method raises OracleStoreError where the database fails."""

    def __init__(self, store: Store, settings: AlertSettings) -> None:
        self._store = store
        self._settings = settings

    def evaluate(self, conditions: Sequence[Condition], scope: Mapping[str, str], now: datetime) -> int:
        """Take in what was measured, and put what must be told into the outbox.

        Args:
            conditions: everything measured in the scope; one label set once.
            scope: labels that all conditions share; a firing alert with these labels whose condition is no longer
                measured is resolved.
            now: the moment of measuring.

        Returns:
            How many messages were put into the outbox.
        """
        with self._store.writing() as connection:
            _lock(connection)
            self._update(connection, conditions, scope, now)
            return self._notify(connection, now)

    def tick(self, now: datetime) -> int:
        """Put into the outbox what has become due by time alone (waits, repeats). Returns how many messages."""
        with self._store.writing() as connection:
            _lock(connection)
            return self._notify(connection, now)

    def active(self) -> list[Alert]:
        """The alerts that fire, oldest first."""
        with self._store.reading() as connection:
            return [alert for alert in _alerts(connection) if alert.ends_at is None]

    def history(self, limit: int = 100) -> list[Event]:
        """What happened, newest first."""
        query = select(alert_history).order_by(alert_history.c.id.desc()).limit(limit)
        with self._store.reading() as connection:
            return [
                Event(
                    at=row["at"],
                    fingerprint=row["fingerprint"],
                    event=row["event"],
                    labels=msgspec.json.decode(row["labels"], type=dict[str, str]),
                    level=row["level"],
                    text=row["text"],
                )
                for row in connection.execute(query).mappings()
            ]

    def silence(self, match: Labels, lasting: timedelta, reason: str, now: datetime) -> Silence:
        """Keep alerts with these labels quiet for a time.

        Raises:
            UsageError: no label is given; that would silence everything by mistake.
        """
        if not match:
            raise UsageError("a silence needs a label", why="without one it would cover every alert", fix="asset=qubic")
        made = Silence(id=secrets.token_hex(4), match=match, starts_at=now, ends_at=now + lasting, reason=reason)
        with self._store.writing() as connection:
            row = {**msgspec.structs.asdict(made), "match": _json(match)}
            connection.execute(insert(alert_silences).values(row))
        return made

    def end_silence(self, identity: str, now: datetime) -> None:
        """End a silence now.

        Raises:
            UsageError: no silence of that id is in force.
        """
        table = alert_silences
        mine = (table.c.id == identity) & (table.c.ends_at > now)
        with self._store.writing() as connection:
            ended = connection.execute(update(table).where(mine).values(ends_at=now)).rowcount
        if not ended:
            raise UsageError(f"there is no silence '{identity}' in force", fix="run: qaicl oracle alerts silences")

    def silences(self, now: datetime) -> list[Silence]:
        """The silences in force, the first to end first."""
        with self._store.reading() as connection:
            return _silences(connection, now)

    def _update(
        self, connection: Connection, conditions: Sequence[Condition], scope: Mapping[str, str], now: datetime
    ) -> None:
        known = {alert.fingerprint: alert for alert in _alerts(connection)}
        measured = set()
        for condition in conditions:
            mark = fingerprint(condition.labels)
            measured.add(mark)
            alert = known.get(mark)
            firing = alert is not None and alert.ends_at is None
            threshold = condition.clear_below if firing else condition.fire_from
            if condition.value >= threshold:
                self._fire(connection, _held(condition, alert if firing else None), alert, now)
            elif alert is not None and firing:
                self._resolve(connection, alert, now)
        for mark, alert in known.items():
            if mark not in measured and alert.ends_at is None and matches(scope, alert.labels):
                self._resolve(connection, alert, now)

    def _fire(self, connection: Connection, condition: Condition, alert: Alert | None, now: datetime) -> None:
        row = {
            "fingerprint": fingerprint(condition.labels),
            "labels": _json(condition.labels),
            "level": condition.level.value,
            "summary": condition.summary,
            "value": condition.value,
            "starts_at": alert.starts_at if alert is not None and alert.ends_at is None else now,
            "updated_at": now,
            "ends_at": None,
        }
        if alert is None:
            connection.execute(insert(alerts).values(row))
        else:
            connection.execute(update(alerts).where(alerts.c.fingerprint == row["fingerprint"]).values(row))
        fired = Alert(
            labels=condition.labels,
            level=condition.level,
            summary=condition.summary,
            value=condition.value,
            starts_at=now,
            updated_at=now,
        )
        if alert is None or alert.ends_at is not None:
            _record(connection, now, "firing", fired)
        elif alert.level is not condition.level:
            _record(connection, now, "level", fired)

    def _resolve(self, connection: Connection, alert: Alert, now: datetime) -> None:
        mine = alerts.c.fingerprint == alert.fingerprint
        connection.execute(update(alerts).where(mine).values(ends_at=now, updated_at=now))
        _record(connection, now, "resolved", alert)

    def _notify(self, connection: Connection, now: datetime) -> int:
        everything = _alerts(connection)
        sent = sum(self._leave(connection, alert, now) for alert in everything)
        firing = [alert for alert in everything if alert.ends_at is None]
        quiet = {alert.fingerprint for alert in firing if self._quiet(alert, firing, _silences(connection, now))}
        groups: dict[str, tuple[Labels, tuple[str, ...], list[Alert]]] = {}
        for alert in everything:
            sinks = self._route(alert)
            labels, key = self._group(alert, sinks)
            groups.setdefault(key, (labels, sinks, []))[2].append(alert)
        rows = {row["key"]: row for row in connection.execute(select(alert_groups)).mappings()}
        for key, (labels, sinks, members) in sorted(groups.items()):
            row = rows.get(key)
            if row is None:
                new = {"key": key, "created_at": now, "sent_at": None, "told": "{}", "messages": 0}
                connection.execute(insert(alert_groups).values(new))
                row = connection.execute(select(alert_groups).where(alert_groups.c.key == key)).mappings().one()
            sent += self._flush(connection, row, labels, sinks, members, quiet, now)
        # A group whose alerts are all gone begins anew the next time, with its wait.
        left = {key for key, (_, _, members) in groups.items() if members}
        for key in set(rows) - left:
            connection.execute(delete(alert_groups).where(alert_groups.c.key == key))
        return sent

    def _flush(
        self,
        connection: Connection,
        row: Any,
        labels: Labels,
        sinks: tuple[str, ...],
        members: list[Alert],
        quiet: set[str],
        now: datetime,
    ) -> int:
        """Send the group where it is due; forget the alerts that have ended and need not be told any more."""
        told = msgspec.json.decode(row["told"], type=dict[str, str])
        firing = [a for a in members if a.ends_at is None and a.fingerprint not in quiet]
        ended = [a for a in members if a.ends_at is not None]
        # The end of something that nobody heard of is no news.
        resolved = [a for a in ended if a.fingerprint in told]
        for alert in ended:
            if alert.fingerprint not in told:
                connection.execute(delete(alerts).where(alerts.c.fingerprint == alert.fingerprint))
        news = bool(resolved) or any(told.get(a.fingerprint) != a.level for a in firing)
        if (not firing and not resolved) or not self._due(row, news, now):
            return 0
        number = self._queue(connection, row, labels, sinks, Told(firing, resolved), now)
        for alert in resolved:
            connection.execute(delete(alerts).where(alerts.c.fingerprint == alert.fingerprint))
            del told[alert.fingerprint]
        told |= {alert.fingerprint: alert.level.value for alert in firing}
        mine = alert_groups.c.key == row["key"]
        connection.execute(update(alert_groups).where(mine).values(sent_at=now, told=_json(told), messages=number))
        return len(sinks)

    def _leave(self, connection: Connection, alert: Alert, now: datetime) -> int:
        """Tell the sinks that the alert is no longer routed to that it has ended for them. Returns how many messages.

        An alert whose level has changed may be routed elsewhere; whoever heard of it would never hear of its end.
        """
        count, own = 0, self._route(alert)
        for sinks in dict.fromkeys(route.sinks for route in self._settings.routes if route.sinks != own):
            labels, key = self._group(alert, sinks)
            mine = alert_groups.c.key == key
            row = connection.execute(select(alert_groups).where(mine)).mappings().one_or_none()
            told = {} if row is None else msgspec.json.decode(row["told"], type=dict[str, str])
            if row is None or told.pop(alert.fingerprint, None) is None:
                continue
            left = msgspec.structs.replace(alert, ends_at=alert.ends_at or now)
            gone = tuple(sink for sink in sinks if sink not in own)
            number = self._queue(connection, row, labels, gone, Told([], [left] if gone else []), now)
            connection.execute(update(alert_groups).where(mine).values(told=_json(told), messages=number))
            count += len(gone)
        return count

    def _group(self, alert: Alert, sinks: tuple[str, ...]) -> tuple[Labels, str]:
        """The labels of the alert's group on a route, and the group's key."""
        labels = {name: alert.labels[name] for name in self._settings.group_by if name in alert.labels}
        return labels, fingerprint({**labels, "\0sinks": ",".join(sinks)})

    def _queue(
        self, connection: Connection, row: Any, labels: Labels, sinks: tuple[str, ...], told: Told, now: datetime
    ) -> int:
        """Put the group's next message into the outbox, one a sink. Returns its number."""
        number = int(row["messages"]) + 1
        for sink in sinks:
            key = hashlib.sha256(
                f"{row['key']}\n{row['created_at'].isoformat()}\n{sink}\n{number}".encode()
            ).hexdigest()
            message = Message(key=key, at=now, group=labels, firing=tuple(told.firing), resolved=tuple(told.ended))
            connection.execute(
                insert(alert_outbox).values(
                    key=key,
                    sink=sink,
                    body=_json(message),
                    state="pending",
                    created_at=now,
                    next_at=now,
                    attempts=0,
                    reason="",
                    sent_at=None,
                )
            )
        for alert in (*told.firing, *told.ended):
            _record(connection, now, "notified", alert)
        return number

    def _due(self, row: Any, news: bool, now: datetime) -> bool:
        settings = self._settings
        if (row["sent_at"] or row["created_at"]) > now + timedelta(seconds=settings.repeat_interval):
            # The clock was ahead when that was written. A little is left to the clocks of several machines.
            return True
        if row["sent_at"] is None:
            return bool(now >= row["created_at"] + timedelta(seconds=settings.group_wait))
        wait = settings.group_interval if news else settings.repeat_interval
        return bool(now >= row["sent_at"] + timedelta(seconds=wait))

    def _route(self, alert: Alert) -> tuple[str, ...]:
        for route in self._settings.routes:
            if matches(route.match, alert.matchable):
                return route.sinks
        return ()

    def _quiet(self, alert: Alert, firing: Iterable[Alert], silences: Iterable[Silence]) -> bool:
        if any(matches(silence.match, alert.matchable) for silence in silences):
            return True
        return any(
            matches(rule.target, alert.matchable)
            and other.fingerprint != alert.fingerprint
            and matches(rule.source, other.matchable)
            and all(other.labels.get(name) == alert.labels.get(name) for name in rule.equal)
            for rule in self._settings.inhibit
            for other in firing
        )


def _held(condition: Condition, alert: Alert | None) -> Condition:
    """The condition with the level that it keeps while its value hovers at the level's threshold."""
    gap = condition.fire_from - condition.clear_below
    if alert is None or alert.level is not Level.critical or condition.value < condition.critical_from - gap:
        return condition
    return msgspec.structs.replace(condition, level=Level.critical)


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def _alerts(connection: Connection) -> list[Alert]:
    rows = connection.execute(select(alerts).order_by(alerts.c.starts_at, alerts.c.fingerprint)).mappings()
    return [
        Alert(
            labels=msgspec.json.decode(row["labels"], type=dict[str, str]),
            level=Level(row["level"]),
            summary=row["summary"],
            value=row["value"],
            starts_at=row["starts_at"],
            updated_at=row["updated_at"],
            ends_at=row["ends_at"],
        )
        for row in rows
    ]


def _silences(connection: Connection, now: datetime) -> list[Silence]:
    table = alert_silences
    query = select(table).where(table.c.starts_at <= now, table.c.ends_at > now).order_by(table.c.ends_at)
    return [
        Silence(**{**row, "match": msgspec.json.decode(row["match"], type=dict[str, str])})
        for row in connection.execute(query).mappings()
    ]


def _record(connection: Connection, now: datetime, event: str, alert: Alert) -> None:
    connection.execute(
        insert(alert_history).values(
            at=now,
            fingerprint=alert.fingerprint,
            event=event,
            labels=_json(alert.labels),
            level=alert.level.value,
            text=alert.summary,
        )
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
