"""Several deliverers at once, on both databases: a message is sent by one of them."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from qaicl.oracle import database
from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.model import Condition, Level, Message
from qaicl.oracle.alerts.outbox import Outbox
from qaicl.oracle.alerts.tables import alert_history, alert_outbox
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings, RouteSettings

MESSAGES = 40


class FileSink:
    """Writes each key on a line of its own, whichever process it is in."""

    at_most_once = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def deliver(self, message: Message) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{message.key}\n".encode())
        os.close(handle)
        # Long enough for another deliverer to look at the same message.
        time.sleep(0.002)


def deliverer(url: str, path: Path, start: Any) -> None:
    """Two threads of one process, as the daemon's two jobs."""
    parsed = make_url(url)
    parsed = parsed if parsed.get_backend_name() == "sqlite" else parsed.set(drivername="postgresql+psycopg")
    with Store(database.connect(parsed)) as store:

        def work() -> None:
            outbox = Outbox(store, {"s": FileSink(path)})
            start.wait()
            while any(one.state == "pending" for one in outbox.waiting()):
                outbox.deliver()

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


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
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    processes = [context.Process(target=deliverer, args=(database_url, path, start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
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
