from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import select

from qaicl.errors import UsageError
from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.model import Condition, Level, Message
from qaicl.oracle.alerts.tables import alert_outbox
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings, InhibitSettings, RouteSettings, SinkSettings

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SCOPE = {"asset": "qubic"}
SETTINGS = AlertSettings(group_wait=30, group_interval=300, repeat_interval=3600)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def risk(value: float, level: Level = Level.warning, asset: str = "qubic") -> Condition:
    return Condition(
        labels={"asset": asset, "alert": "risk"},
        level=level,
        value=value,
        fire_from=70,
        clear_below=65,
        summary=f"risk {value:.0f}",
    )


def odd(series: str, value: float = 80) -> Condition:
    labels = {"asset": "qubic", "alert": "anomaly", "series": series}
    return Condition(labels=labels, level=Level.warning, value=value, fire_from=80, clear_below=50, summary=series)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.in_memory() as made:
        yield made


@pytest.fixture
def engine(store: Store) -> AlertEngine:
    return AlertEngine(store, SETTINGS)


def messages(store: Store) -> list[Message]:
    with store.reading() as connection:
        bodies = connection.execute(select(alert_outbox.c.body).order_by(alert_outbox.c.created_at)).scalars()
        return [msgspec.json.decode(body, type=Message) for body in bodies]


def test_a_condition_below_its_threshold_is_no_alert(engine: AlertEngine, store: Store) -> None:
    engine.evaluate([risk(69.9)], SCOPE, at(0))
    engine.tick(at(1000))
    assert engine.active() == [] and messages(store) == []


def test_the_first_message_waits_for_its_group(engine: AlertEngine, store: Store) -> None:
    engine.evaluate([odd("price")], SCOPE, at(0))
    engine.evaluate([odd("price"), odd("volume")], SCOPE, at(20))
    assert messages(store) == []
    engine.tick(at(30))
    (message,) = messages(store)
    assert [alert.labels["series"] for alert in message.firing] == ["price", "volume"]
    assert message.subject == "[WARNING:2] alert=anomaly asset=qubic"


def test_the_same_labels_are_one_alert(engine: AlertEngine, store: Store) -> None:
    for second in range(0, 200, 10):
        engine.evaluate([risk(80 + second / 100)], SCOPE, at(second))
    assert len(engine.active()) == 1
    assert len(messages(store)) == 1


def test_hysteresis_keeps_a_hovering_value_from_ringing_again(engine: AlertEngine, store: Store) -> None:
    for i, value in enumerate([71, 69, 71, 66, 70, 65.5]):
        engine.evaluate([risk(value)], SCOPE, at(60 * i))
    assert [event.event for event in reversed(engine.history())].count("firing") == 1
    assert engine.active()[0].starts_at == at(0)
    engine.evaluate([risk(64.9)], SCOPE, at(600))
    assert engine.active() == []


def test_an_end_is_told_once_and_then_forgotten(engine: AlertEngine, store: Store) -> None:
    engine.evaluate([risk(80)], SCOPE, at(0))
    engine.tick(at(30))
    engine.evaluate([risk(10)], SCOPE, at(400))
    engine.tick(at(5000))
    first, last = messages(store)
    assert first.firing and not first.resolved
    assert [alert.ends_at for alert in last.resolved] == [at(400)] and not last.firing
    assert last.subject == "[RESOLVED] alert=risk asset=qubic"
    assert [event.event for event in reversed(engine.history())] == ["firing", "notified", "resolved", "notified"]


def test_the_end_of_what_nobody_heard_of_is_no_news(engine: AlertEngine, store: Store) -> None:
    engine.evaluate([risk(80)], SCOPE, at(0))
    engine.evaluate([risk(10)], SCOPE, at(10))
    engine.tick(at(5000))
    assert messages(store) == []


def test_what_is_no_longer_measured_is_resolved_in_its_scope_only(engine: AlertEngine) -> None:
    engine.evaluate([risk(80), odd("price")], SCOPE, at(0))
    engine.evaluate([risk(80, asset="bitcoin")], {"asset": "bitcoin"}, at(1))
    engine.evaluate([risk(80)], SCOPE, at(2))
    assert {(a.labels["asset"], a.labels["alert"]) for a in engine.active()} == {("qubic", "risk"), ("bitcoin", "risk")}


def test_news_wait_for_the_group_interval_and_no_news_for_the_repeat(engine: AlertEngine, store: Store) -> None:
    engine.evaluate([odd("price")], SCOPE, at(0))
    engine.tick(at(30))
    engine.evaluate([odd("price"), odd("volume")], SCOPE, at(60))
    engine.tick(at(329))
    assert len(messages(store)) == 1
    engine.tick(at(330))
    assert len(messages(store)) == 2
    engine.tick(at(3929))
    assert len(messages(store)) == 2
    engine.tick(at(3930))
    assert len(messages(store)) == 3


def test_a_higher_level_is_news(engine: AlertEngine, store: Store) -> None:
    engine.evaluate([risk(80)], SCOPE, at(0))
    engine.tick(at(30))
    engine.evaluate([risk(95, Level.critical)], SCOPE, at(400))
    assert [message.level for message in messages(store)] == [Level.warning, Level.critical]


def test_routes_are_tried_in_order_and_group_by_sinks(store: Store) -> None:
    settings = msgspec.structs.replace(
        SETTINGS,
        sinks={name: SinkSettings(kind="log") for name in ("pager", "mail")},
        routes=(
            RouteSettings(match={"level": "critical"}, sinks=("pager", "mail")),
            RouteSettings(match={"asset": "qubic"}, sinks=("mail",)),
        ),
    )
    engine = AlertEngine(store, settings)
    engine.evaluate([risk(95, Level.critical), odd("price")], SCOPE, at(0))
    engine.evaluate([risk(75, asset="bitcoin")], {"asset": "bitcoin"}, at(0))
    engine.tick(at(30))
    with store.reading() as connection:
        rows = connection.execute(select(alert_outbox.c.sink, alert_outbox.c.body)).all()
    sent = sorted((row.sink, msgspec.json.decode(row.body, type=Message).group["alert"]) for row in rows)
    assert sent == [("mail", "anomaly"), ("mail", "risk"), ("pager", "risk")], "no route takes bitcoin's warning"


def test_a_silenced_alert_is_recorded_and_not_told_until_the_silence_ends(engine: AlertEngine, store: Store) -> None:
    engine.silence({"asset": "qubic", "alert": "risk"}, timedelta(hours=1), "maintenance", at(0))
    engine.evaluate([risk(80), odd("price")], SCOPE, at(1))
    engine.tick(at(40))
    assert [message.group["alert"] for message in messages(store)] == ["anomaly"]
    assert len(engine.active()) == 2
    engine.tick(at(3700))
    assert "risk" in [message.group["alert"] for message in messages(store)]


def test_a_silence_can_be_ended_and_must_name_a_label(engine: AlertEngine) -> None:
    made = engine.silence({"asset": "qubic"}, timedelta(hours=1), "", at(0))
    assert engine.silences(at(1)) == [made]
    engine.end_silence(made.id, at(2))
    assert engine.silences(at(3)) == []
    with pytest.raises(UsageError, match="no silence"):
        engine.end_silence(made.id, at(4))
    with pytest.raises(UsageError, match="needs a label"):
        engine.silence({}, timedelta(hours=1), "", at(0))


def test_a_critical_alert_inhibits_its_warnings(store: Store) -> None:
    rule = InhibitSettings(source={"level": "critical"}, target={"level": "warning"}, equal=("asset",))
    engine = AlertEngine(store, msgspec.structs.replace(SETTINGS, inhibit=(rule,)))
    engine.evaluate([risk(95, Level.critical), odd("price")], SCOPE, at(0))
    engine.evaluate([risk(75, asset="bitcoin")], {"asset": "bitcoin"}, at(0))
    engine.tick(at(30))
    told = {(message.group["asset"], message.group["alert"]) for message in messages(store)}
    assert told == {("qubic", "risk"), ("bitcoin", "risk")}


def test_keys_are_unique_and_the_same_for_the_same_message(store: Store) -> None:
    engine = AlertEngine(store, SETTINGS)
    for i in range(6):
        engine.evaluate([risk(80 if i % 2 == 0 else 10)], SCOPE, at(400 * i))
        engine.tick(at(400 * i + 350))
    keys = [message.key for message in messages(store)]
    assert len(keys) == len(set(keys)) == 6


def test_a_new_engine_on_the_same_store_goes_on_where_the_old_one_stopped(store: Store) -> None:
    AlertEngine(store, SETTINGS).evaluate([risk(80)], SCOPE, at(0))
    AlertEngine(store, SETTINGS).tick(at(31))
    AlertEngine(store, SETTINGS).tick(at(32))
    AlertEngine(store, SETTINGS).evaluate([risk(80)], SCOPE, at(60))
    assert len(messages(store)) == 1


def test_a_sink_that_a_lower_level_is_not_routed_to_hears_of_the_end_once(store: Store) -> None:
    routes = (RouteSettings(sinks=("log", "phone"), match={"level": "critical"}), RouteSettings(sinks=("log",)))
    sinks = {name: SinkSettings(kind="log") for name in ("log", "phone")}
    engine = AlertEngine(store, msgspec.structs.replace(SETTINGS, routes=routes, sinks=sinks))

    def told(sink: str) -> list[str]:
        with store.reading() as connection:
            query = select(alert_outbox.c.body).where(alert_outbox.c.sink == sink).order_by(alert_outbox.c.created_at)
            bodies = connection.execute(query).scalars()
            return [msgspec.json.decode(body, type=Message).subject.partition("]")[0] for body in bodies]

    engine.evaluate([risk(90, Level.critical)], SCOPE, at(0))
    engine.tick(at(30))
    assert told("log") == told("phone") == ["[CRITICAL:1"]
    for seconds in (3600, 3630, 3660):
        engine.evaluate([risk(80)], SCOPE, at(seconds))
    assert told("phone") == ["[CRITICAL:1", "[RESOLVED"]
    assert told("log") == ["[CRITICAL:1", "[WARNING:1"]
    for seconds in (7200, 7230, 7260, 20_000):
        engine.evaluate([risk(10)], SCOPE, at(seconds))
    assert told("phone") == ["[CRITICAL:1", "[RESOLVED"]
    assert told("log") == ["[CRITICAL:1", "[WARNING:1", "[RESOLVED"]


def test_a_rise_of_the_level_is_no_end(store: Store) -> None:
    routes = (RouteSettings(sinks=("log", "phone"), match={"level": "critical"}), RouteSettings(sinks=("log",)))
    sinks = {name: SinkSettings(kind="log") for name in ("log", "phone")}
    engine = AlertEngine(store, msgspec.structs.replace(SETTINGS, routes=routes, sinks=sinks))
    for seconds, condition in ((0, risk(80)), (30, risk(80)), (3600, risk(90, Level.critical))):
        engine.evaluate([condition], SCOPE, at(seconds))
    engine.tick(at(3640))
    subjects = [message.subject for message in messages(store)]
    assert sum("WARNING" in subject for subject in subjects) == 1
    assert sum("CRITICAL" in subject for subject in subjects) == 2, "one a sink"
    assert not any("RESOLVED" in subject for subject in subjects)


def test_a_clock_that_was_ahead_keeps_no_alert_waiting(store: Store, engine: AlertEngine) -> None:
    year = 365 * 86_400
    engine.evaluate([risk(80)], SCOPE, at(year))
    assert engine.tick(at(year + 30)) == 1
    assert engine.evaluate([risk(90, Level.critical)], SCOPE, at(0)) == 1, "set right"
    assert engine.evaluate([risk(90, Level.critical)], SCOPE, at(10)) == 0
    # Two machines' clocks differ by a little: that is no reason to repeat anything.
    assert engine.tick(at(-60)) == 0


def test_a_group_that_was_made_while_the_clock_was_ahead_is_told(engine: AlertEngine) -> None:
    engine.evaluate([risk(80)], SCOPE, at(365 * 86_400))
    assert engine.tick(at(0)) == 1


def test_hysteresis_keeps_a_value_at_the_critical_threshold_from_changing_the_level(store: Store) -> None:
    engine = AlertEngine(store, msgspec.structs.replace(SETTINGS, repeat_interval=86_400))

    def measured(value: float, hour: int) -> None:
        level = Level.critical if value >= 85 else Level.warning
        condition = msgspec.structs.replace(risk(value, level), critical_from=85.0)
        engine.evaluate([condition], SCOPE, at(hour * 3600))
        engine.tick(at(hour * 3600 + 30))

    for hour in range(10):
        measured(85.1 if hour % 2 else 84.9, hour)
    assert [message.level for message in messages(store)] == [Level.warning, Level.critical]
    measured(79.9, 10)
    assert messages(store)[-1].level is Level.warning
