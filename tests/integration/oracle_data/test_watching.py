"""A round of watching, and the delivery of what is due, on both databases."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qaicl.errors import SettingsError
from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.outbox import Delivered, Outbox
from qaicl.oracle.alerts.watching import deliver_due, watch_round
from qaicl.oracle.observations import Batch, Candle, SourceHealth
from qaicl.oracle.risk.inputs import technical
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store, floor
from qaicl.settings import AlertSettings, OracleSettings, Paths, RouteSettings, Settings, SinkSettings, Values

HOUR = timedelta(hours=1)
# In the past, as the outbox goes by the database's clock.
NOW = floor(datetime.now(UTC), HOUR) - HOUR
WAIT = 30.0
QUBIC_RISK = {"asset": "qubic", "alert": "risk"}


def settings(tmp_path: Path, **alerts: Any) -> Settings:
    """Every risk is an alert, to a log."""
    fixed: dict[str, Any] = {"risk_from": 0.0, "risk_margin": 0.0, "group_wait": WAIT}
    values = Values(oracle=OracleSettings(), alerts=AlertSettings(**(fixed | alerts)))
    return Settings(values, Paths(tmp_path / "c", tmp_path / "d", tmp_path / "s"), "default")


def fill(store: Store) -> None:
    bars = tuple(
        Candle(
            source="mexc",
            asset=asset,
            interval="1h",
            closed_at=NOW - back * HOUR,
            open=1.0,
            high=1.1,
            low=0.9,
            close=1.0 + back % 7 / 100,
            volume=5.0,
            quote="USDT",
            fetched_at=NOW,
            sha256="0" * 64,
        )
        for asset in ("qubic", "bitcoin")
        for back in range(72)
    )
    store.add(Batch(source="mexc", candles=bars), now=NOW)


def logged(tmp_path: Path) -> list[str]:
    file = tmp_path / "s" / "contexts" / "default" / "alerts.jsonl"
    return [json.loads(line)["subject"] for line in file.read_text().splitlines()] if file.exists() else []


def risks(tmp_path: Path) -> Counter[str]:
    return Counter(subject for subject in logged(tmp_path) if "alert=risk" in subject)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_what_is_measured_waits_for_its_group_and_is_told_by_the_next_round(store: Store, tmp_path: Path) -> None:
    fill(store)
    ours = settings(tmp_path)
    assert watch_round(store, ours, NOW) == (0, Delivered())
    assert deliver_due(store, ours, later(WAIT - 1)) == (0, Delivered())
    queued, delivered = deliver_due(store, ours, later(WAIT))
    assert queued == delivered.sent == len(logged(tmp_path)) >= 2
    assert [subject.partition("] ")[2] for subject in sorted(risks(tmp_path))] == [
        "alert=risk asset=bitcoin",
        "alert=risk asset=qubic",
    ]
    assert watch_round(store, ours, later(WAIT + 1)) == (0, Delivered()), "told already"
    assert deliver_due(store, ours, later(WAIT + 2)) == (0, Delivered())


def test_a_round_tells_what_became_due_and_the_end_of_what_ended(store: Store, tmp_path: Path) -> None:
    fill(store)
    watch_round(store, settings(tmp_path), NOW)
    queued, delivered = watch_round(store, settings(tmp_path), later(WAIT))
    assert queued == delivered.sent >= 2
    calm = settings(tmp_path, risk_from=100.0)
    queued, delivered = watch_round(store, calm, later(WAIT + 300))
    assert (queued, delivered.sent) == (2, 2)
    # Messages of one moment have no order among themselves.
    assert sorted(logged(tmp_path)[-2:]) == [
        "[RESOLVED] alert=risk asset=bitcoin",
        "[RESOLVED] alert=risk asset=qubic",
    ]


def test_the_two_jobs_at_once_tell_each_alert_once(store: Store, tmp_path: Path) -> None:
    fill(store)
    ours = settings(tmp_path)
    watch_round(store, ours, NOW)
    together = threading.Barrier(3)
    sent: list[int] = []

    def work(job: Any) -> None:
        together.wait()
        sent.append(job(store, ours, later(WAIT))[1].sent)

    jobs = [threading.Thread(target=work, args=(job,)) for job in (watch_round, deliver_due, deliver_due)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    deliver_due(store, ours, later(WAIT))
    told = [event for event in AlertEngine(store, ours.values.alerts).history() if event.event == "delivered"]
    assert len(told) == len(logged(tmp_path)) == len(set(logged(tmp_path))) >= 2
    assert Outbox(store, {}).waiting() == []


def test_without_data_there_is_nothing_to_tell(local_store: Store, tmp_path: Path) -> None:
    assert watch_round(local_store, settings(tmp_path), NOW) == (0, Delivered())


def test_settings_that_are_wrong_are_told_before_anything_is_evaluated(local_store: Store, tmp_path: Path) -> None:
    fill(local_store)
    wrong = settings(tmp_path, routes=(RouteSettings(sinks=("pager",)),))
    with pytest.raises(SettingsError, match="names the sink 'pager'"):
        watch_round(local_store, wrong, NOW)
    with pytest.raises(SettingsError, match="names the sink 'pager'"):
        deliver_due(local_store, wrong, NOW)
    assert AlertEngine(local_store, wrong.values.alerts).active() == []


def test_a_sink_that_fails_is_told_with_its_reason_and_stops_no_other(local_store: Store, tmp_path: Path) -> None:
    fill(local_store)
    both = settings(
        tmp_path,
        sinks={"dead": SinkSettings(kind="webhook", url="http://127.0.0.1:1/"), "log": SinkSettings(kind="log")},
        routes=(RouteSettings(sinks=("dead", "log")),),
    )
    watch_round(local_store, both, NOW)
    queued, delivered = watch_round(local_store, both, later(WAIT))
    assert delivered.sent == queued / 2 == len(logged(tmp_path))
    assert delivered.failed == ("dead: the webhook does not answer: ConnectError",)
    assert {one.sink for one in Outbox(local_store, {}).waiting()} == {"dead"}


def test_a_cluster_that_is_given_counts_in_the_risk(local_store: Store, tmp_path: Path) -> None:
    fill(local_store)
    ours = settings(tmp_path)
    values = {}
    for nodes in (0.0, 60.0):
        watch_round(local_store, ours, NOW, cluster={"nodes_down": nodes})
        (one,) = (a for a in AlertEngine(local_store, ours.values.alerts).active() if a.labels == QUBIC_RISK)
        values[nodes] = one.value
    assert values[60.0] > values[0.0]


def test_what_was_sent_is_forgotten_after_the_retention_and_what_waits_is_not(store: Store, tmp_path: Path) -> None:
    fill(store)
    both = settings(
        tmp_path,
        sinks={"dead": SinkSettings(kind="webhook", url="http://127.0.0.1:1/"), "log": SinkSettings(kind="log")},
        routes=(RouteSettings(sinks=("dead", "log")),),
    )
    watch_round(store, both, NOW)
    watch_round(store, both, later(WAIT))
    outbox = Outbox(store, {})
    waiting = outbox.waiting()
    days = both.values.oracle.retention_days
    assert outbox.prune(datetime.now(UTC) - timedelta(days=days)) == 0
    told = len(AlertEngine(store, both.values.alerts).history())
    # Everything, and a row of the outbox for each message that the log has.
    assert outbox.prune(datetime.now(UTC) + HOUR) == told + len(logged(tmp_path))
    assert AlertEngine(store, both.values.alerts).history() == []
    assert outbox.waiting() == waiting != []


def test_what_an_asset_rang_for_ends_when_it_is_taken_out_of_the_settings(store: Store, tmp_path: Path) -> None:
    fill(store)
    ours = settings(tmp_path)
    watch_round(store, ours, NOW)
    watch_round(store, ours, later(WAIT))
    fewer = {"qubic": ours.values.oracle.assets["qubic"]}
    values = Values(oracle=OracleSettings(assets=fewer), alerts=ours.values.alerts)
    left = Settings(values, ours.paths, ours.context)
    watch_round(store, left, later(WAIT + 300))
    assert {alert.labels["asset"] for alert in AlertEngine(store, values.alerts).active()} == {"qubic"}
    assert "[RESOLVED] alert=risk asset=bitcoin" in logged(tmp_path)


def test_a_source_that_is_not_asked_any_more_neither_rings_nor_counts(local_store: Store, tmp_path: Path) -> None:
    fill(local_store)
    ours = settings(tmp_path)
    failing = {"asset": "qubic", "alert": "source", "source": "newsapi"}

    def rings(failed: datetime) -> tuple[bool, float | None]:
        local_store.set_health(SourceHealth(source="newsapi", failures=50, last_failure=failed, reason="no"))
        watch_round(local_store, ours, NOW)
        known = Snapshot.load(local_store, "qubic", NOW, settings=ours.values.oracle)
        counted = technical(known, (), has_network=True)["failing_sources"]
        return any(one.labels == failing for one in AlertEngine(local_store, ours.values.alerts).active()), counted

    assert rings(NOW - HOUR) == (True, 100.0)
    assert rings(NOW - 30 * HOUR) == (False, 0.0)
