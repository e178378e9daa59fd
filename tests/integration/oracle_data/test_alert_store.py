"""Alerts on the migrated databases, SQLite and PostgreSQL: the whole life of one alert."""

from datetime import UTC, datetime, timedelta

from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.model import Condition, Level, Message
from qaicl.oracle.alerts.outbox import Outbox
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings, RouteSettings

START = datetime(2026, 1, 1, tzinfo=UTC)


class Inbox:
    at_most_once = False

    def __init__(self) -> None:
        self.taken: list[Message] = []

    def deliver(self, message: Message) -> None:
        self.taken.append(message)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def risk(value: float) -> Condition:
    labels = {"asset": "qubic", "alert": "risk"}
    return Condition(labels=labels, level=Level.warning, value=value, fire_from=70, clear_below=65, summary="risk")


def test_an_alert_fires_is_told_ends_and_is_told_again(store: Store) -> None:
    engine = AlertEngine(store, AlertSettings(routes=(RouteSettings(sinks=("in",)),)))
    inbox = Inbox()

    def deliver(seconds: float) -> int:
        return Outbox(store, {"in": inbox}, lambda: at(seconds)).deliver().sent

    engine.evaluate([risk(80)], {"asset": "qubic"}, at(0))
    engine.tick(at(31))
    assert [deliver(32), deliver(33)] == [1, 0]
    engine.evaluate([risk(10)], {"asset": "qubic"}, at(400))
    assert deliver(401) == 1
    assert [(len(m.firing), len(m.resolved)) for m in inbox.taken] == [(1, 0), (0, 1)]
    assert engine.active() == [] and Outbox(store, {}).waiting() == []
    told = [event.event for event in reversed(engine.history())]
    assert told == ["firing", "notified", "delivered", "resolved", "notified", "delivered"]
    made = engine.silence({"asset": "qubic"}, timedelta(hours=1), "work", at(500))
    assert engine.silences(at(501)) == [made]
