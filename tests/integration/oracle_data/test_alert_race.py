"""Several deliverers at once, on both databases: a message is sent by one of them."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import PIPE, Popen

from sqlalchemy import func, select

from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.model import Condition, Level
from qaicl.oracle.alerts.tables import alert_history, alert_outbox
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings, RouteSettings

MESSAGES = 40


DELIVERER = Path(__file__).with_name("deliverer.py")


def test_four_deliverers_in_two_processes_send_each_message_once(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    engine = AlertEngine(store, AlertSettings(group_wait=0.001, routes=(RouteSettings(sinks=("s",)),)))
    past = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(MESSAGES):
        labels = {"asset": f"a{number}", "alert": "x"}
        rings = Condition(labels=labels, level=Level.warning, value=1, fire_from=1, clear_below=1, summary="x")
        engine.evaluate([rings], labels, past)
    engine.tick(past + timedelta(seconds=1))
    path = tmp_path / "sent"
    go = tmp_path / "go"
    command = [sys.executable, str(DELIVERER), database_url, str(path), str(go)]
    with ExitStack() as running:
        processes = [running.enter_context(Popen(command, stdout=PIPE, text=True)) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        go.touch()
    assert [process.returncode for process in processes] == [0, 0]
    sent = Counter(path.read_text().split())
    assert len(sent) == MESSAGES
    assert set(sent.values()) == {1}
    with store.reading() as connection:
        assert set(connection.execute(select(alert_outbox.c.state)).scalars()) == {"sent"}
        delivered = select(func.count()).where(alert_history.c.event == "delivered")
        assert connection.execute(delivered).scalar() == MESSAGES


def test_the_clock_is_the_databases_and_in_utc(store: Store) -> None:
    assert abs((store.clock() - datetime.now(UTC)).total_seconds()) < 5
    assert store.clock().utcoffset() == timedelta(0)
