import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import URL, func, select, update

from qaicl.errors import SinkError
from qaicl.oracle import database
from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.model import Condition, Level, Message
from qaicl.oracle.alerts.outbox import CLAIM, DEADLINE, TIMEOUT, Outbox
from qaicl.oracle.alerts.tables import alert_outbox
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings, RouteSettings, SinkSettings

sys.path.insert(0, str(Path(__file__).parent))

from alert_servers import http_server

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = AlertSettings(
    group_wait=0.001, sinks={"s": SinkSettings(kind="log")}, routes=(RouteSettings(sinks=("s",)),), inhibit=()
)


class Recorder:
    """A sink that keeps what it is given, and fails or dies when told to."""

    def __init__(self, at_most_once: bool = False) -> None:
        self.at_most_once = at_most_once
        self.taken: list[Message] = []
        self.error: BaseException | None = None

    def deliver(self, message: Message) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append(message)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def ring(store: Store, now: datetime, name: str = "risk") -> None:
    condition = Condition(
        labels={"asset": "qubic", "alert": name}, level=Level.warning, value=1, fire_from=1, clear_below=1, summary=name
    )
    engine = AlertEngine(store, SETTINGS)
    engine.evaluate([condition], {"alert": name}, now)
    engine.tick(now + timedelta(milliseconds=1))


def deliver(store: Store, sink: Recorder, seconds: float) -> int:
    """One round at a moment. Returns how many messages were delivered."""
    return Outbox(store, {"s": sink}, lambda: at(seconds)).deliver().sent


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.in_memory() as made:
        yield made


def test_a_message_is_delivered_once(store: Store) -> None:
    sink = Recorder()
    ring(store, at(0))
    assert [deliver(store, sink, seconds) for seconds in (1, 2, 3)] == [1, 0, 0]
    assert len(sink.taken) == 1 and Outbox(store, {}).waiting() == []


def test_a_failure_stays_with_its_reason_and_is_tried_again_later_and_later(store: Store) -> None:
    sink = Recorder()
    sink.error = SinkError("the webhook answered 500")
    ring(store, at(0))
    waits, now = [], 1.0
    for _ in range(12):
        deliver(store, sink, now)
        (waiting,) = Outbox(store, {}).waiting()
        waits.append((waiting.next_at - at(now)).total_seconds())
        assert waiting.reason == "the webhook answered 500"
        assert deliver(store, sink, now + waits[-1] - 1) == 0
        now += waits[-1]
    assert waits[:4] == [5, 10, 20, 40] and waits[-1] == 3600
    sink.error = None
    assert deliver(store, sink, now) == 1


def test_after_months_of_failures_it_is_still_tried_every_hour(store: Store) -> None:
    sink = Recorder()
    sink.error = SinkError("the webhook answered 500")
    ring(store, at(0))
    with store.writing() as connection:
        connection.execute(update(alert_outbox).values(attempts=5000))
    deliver(store, sink, 1)
    assert Outbox(store, {}).waiting()[0].next_at == at(3601)


@pytest.mark.parametrize(
    ("asked", "wait"), [(77.0, 77), (1e300, 86_400), (float("inf"), 86_400), (-5.0, 1), (float("nan"), 1)]
)
def test_a_receiver_says_when_it_wants_to_be_asked_again_within_reason(store: Store, asked: float, wait: float) -> None:
    sink = Recorder()
    sink.error = SinkError("busy", retry_after=asked)
    ring(store, at(0))
    deliver(store, sink, 1)
    assert Outbox(store, {}).waiting()[0].next_at == at(1 + wait)


def test_one_dead_sink_does_not_hold_up_the_other(store: Store) -> None:
    settings = AlertSettings(group_wait=0.001, routes=(RouteSettings(sinks=("dead", "alive")),))
    condition = Condition(labels={"alert": "x"}, level=Level.info, value=1, fire_from=1, clear_below=1, summary="x")
    engine = AlertEngine(store, settings)
    engine.evaluate([condition], {}, at(0))
    engine.tick(at(1))
    dead, alive = Recorder(), Recorder()
    dead.error = SinkError("dead")
    found = Outbox(store, {"dead": dead, "alive": alive}, lambda: at(2)).deliver()
    assert (found.sent, found.failed) == (1, ("dead: dead",))
    assert str(found) == "1 messages delivered; not delivered to dead: dead"
    assert len(alive.taken) == 1


def test_a_dead_sink_is_tried_once_a_round_and_a_bad_message_holds_up_no_other(store: Store) -> None:
    for number in range(3):
        ring(store, at(0), f"a{number}")
    sink = Recorder()
    sink.error = SinkError("dead")
    assert deliver(store, sink, 1) == 0
    assert [one.attempts for one in Outbox(store, {}).waiting()] == [1, 0, 0]
    sink.error = None
    assert deliver(store, sink, 2) == 2, "the first waits for its own time"


def test_a_sink_that_the_settings_lost_keeps_its_messages(store: Store) -> None:
    ring(store, at(0))
    outbox = Outbox(store, {}, lambda: at(1))
    assert outbox.deliver().sent == 0
    assert "no sink 's'" in outbox.waiting()[0].reason


def test_what_the_operator_must_mend_is_tried_once_and_again_when_told(store: Store) -> None:
    ring(store, at(0))
    sink = Recorder()
    sink.error = SinkError("wrong password", permanent=True)
    deliver(store, sink, 1)
    sink.error = None
    assert deliver(store, sink, 1_000_000) == 0
    outbox = Outbox(store, {"s": sink}, lambda: at(1_000_001))
    assert [(one.state, one.reason) for one in outbox.waiting()] == [("refused", "wrong password")]
    assert [outbox.retry("other"), outbox.retry("s"), outbox.retry()] == [0, 1, 0]
    assert outbox.deliver().sent == 1


def test_killed_while_sending_is_sent_again_with_the_same_key(store: Store) -> None:
    sink = Recorder()
    ring(store, at(0))
    sink.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        deliver(store, sink, 1)
    sink.error = None
    assert deliver(store, sink, CLAIM) == 0, "another process may still be sending"
    assert deliver(store, sink, 2 + CLAIM) == 1


def test_at_most_once_is_not_sent_again_and_says_so(store: Store) -> None:
    sink = Recorder(at_most_once=True)
    ring(store, at(0))
    sink.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        deliver(store, sink, 1)
    sink.error = None
    assert deliver(store, sink, 2 + CLAIM) == 0
    assert sink.taken == []
    assert [(w.state, w.reason) for w in Outbox(store, {}).waiting()] == [
        ("unknown", "killed while sending; not sent again (at_most_once)")
    ]


def test_a_claim_begins_when_its_message_is_sent_not_when_the_round_began(store: Store) -> None:
    """Else the last messages of a slow round would be free for another deliverer while they are being sent."""
    for number in range(6):
        ring(store, at(0), f"a{number}")
    clock = [at(1)]
    taken: list[str] = []

    class Slow:
        at_most_once = False

        def deliver(self, message: Message) -> None:
            clock[0] += timedelta(seconds=DEADLINE - 1)
            other = Recorder()
            Outbox(store, {"s": other}, lambda: clock[0]).deliver()
            taken.extend([message.key, *(one.key for one in other.taken)])

    outbox = Outbox(store, {"s": Slow()}, lambda: clock[0])
    while outbox.waiting():
        outbox.deliver()
    assert sorted(taken) == sorted(set(taken)) and len(taken) == 6


def test_a_deliverer_whose_claim_ran_out_does_not_undo_anothers_delivery(store: Store) -> None:
    """As after a machine slept in the middle of sending."""
    ring(store, at(0))
    other = Recorder()

    class Asleep:
        at_most_once = False

        def deliver(self, message: Message) -> None:
            assert deliver(store, other, CLAIM + 2) == 1
            raise SinkError("the connection is gone")

    assert Outbox(store, {"s": Asleep()}, lambda: at(1)).deliver().sent == 0
    assert Outbox(store, {}).waiting() == []
    assert deliver(store, other, 10_000) == 0 and len(other.taken) == 1


def test_every_sink_gives_up_before_its_claim_runs_out() -> None:
    assert DEADLINE + TIMEOUT < CLAIM


WORKER = """
    import sys
    from datetime import UTC, datetime, timedelta
    from sqlalchemy import URL
    from qaicl.oracle import database
    from qaicl.oracle.alerts import outbox as box
    from qaicl.oracle.alerts.engine import AlertEngine
    from qaicl.oracle.alerts.model import Condition, Level
    from qaicl.oracle.alerts.sinks import WebhookSink
    from qaicl.oracle.store import Store
    from qaicl.settings import AlertSettings, RouteSettings, SinkSettings

    path, url, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    box.CLAIM = 0.0
    store = Store(database.connect(URL.create("sqlite", database=path)))
    settings = AlertSettings(group_wait=0.000001, routes=(RouteSettings(sinks=("s",)),), inhibit=())
    engine = AlertEngine(store, settings)
    ahead = timedelta(seconds=1)
    outbox = box.Outbox(store, {"s": WebhookSink(url, "")}, lambda: datetime.now(UTC) + ahead)
    print("ready", flush=True)
    for i in range(first, 16):
        condition = Condition(
            labels={"asset": f"a{i}", "alert": "x"}, level=Level.warning, value=1, fire_from=1, clear_below=1,
            summary=str(i),
        )
        now = datetime.now(UTC)
        engine.evaluate([condition], {"asset": f"a{i}"}, now)
        engine.tick(now + timedelta(milliseconds=1))
        outbox.deliver()
    ahead = timedelta(days=1)
    outbox.deliver()
"""


def test_kill_9_at_any_moment_loses_no_alert_and_repeats_no_key_to_a_receiver_that_minds(tmp_path: Path) -> None:
    path = tmp_path / "oracle.sqlite"
    Store(database.connect(URL.create("sqlite", database=str(path)))).close()
    with http_server() as inbox:
        command = [sys.executable, "-c", textwrap.dedent(WORKER), str(path), inbox.url]
        for pause in (0.05, 0.2):
            first = len(set(inbox.keys))
            process = subprocess.Popen([*command, str(max(0, first - 1))], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            # Random moments are what is tested; the outcome does not depend on which.
            time.sleep(pause)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        subprocess.run([*command, "0"], check=True, capture_output=True)
        with Store(database.connect(URL.create("sqlite", database=str(path)))) as store, store.reading() as connection:
            states = dict(
                connection.execute(select(alert_outbox.c.state, func.count()).group_by(alert_outbox.c.state)).all()
            )
        subjects = {}
        for _, headers, body in inbox.requests:
            subjects.setdefault(headers["idempotency-key"], set()).add(body["subject"])
    assert states == {"sent": 16}
    assert len(subjects) == 16, "a message a key, a key a message"
    assert sorted(s for (s,) in subjects.values()) == sorted(f"[WARNING:1] alert=x asset=a{i}" for i in range(16))


def test_a_mistake_in_one_sink_stops_neither_the_daemon_nor_the_other_sinks(store: Store) -> None:
    class Broken(Recorder):
        def deliver(self, message: Message) -> None:
            raise AttributeError("'list' object has no attribute 'get', and this is the token: 123:secret")

    settings = msgspec.structs.replace(
        SETTINGS,
        sinks={name: SinkSettings(kind="log") for name in ("bad", "good")},
        routes=(RouteSettings(sinks=("bad", "good")),),
    )
    condition = Condition(
        labels={"alert": "risk"}, level=Level.warning, value=1, fire_from=1, clear_below=1, summary="risk"
    )
    AlertEngine(store, settings).evaluate([condition], {}, at(0))
    AlertEngine(store, settings).tick(at(1))
    good = Recorder()
    done = Outbox(store, {"bad": Broken(), "good": good}, lambda: at(2)).deliver()
    assert (done.sent, len(good.taken)) == (1, 1)
    (waiting,) = Outbox(store, {}).waiting()
    assert (waiting.sink, waiting.state) == ("bad", "pending")
    assert "AttributeError" in waiting.reason and "secret" not in waiting.reason


def test_a_message_that_was_put_off_while_the_clock_was_ahead_is_sent(store: Store) -> None:
    sink = Recorder()
    year = 365 * 86_400
    ring(store, at(year))
    sink.error = SinkError("no answer")
    assert deliver(store, sink, year + 1) == 0
    sink.error = None
    assert [deliver(store, sink, seconds) for seconds in (1, 2)] == [1, 0]
