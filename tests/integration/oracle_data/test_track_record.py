"""What was forecast, and what came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, make_url, text

from qaicl.errors import TooLittleHistoryError
from qaicl.oracle import database
from qaicl.oracle.forecast.backtest import VERSION
from qaicl.oracle.observations import Batch, Candle
from qaicl.oracle.recording import recorded_store
from qaicl.oracle.records import ForecastRecord, Records
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.oracle.track_record import HORIZON, LiveRecord, judge, keep_record, live_record, resolve_due
from qaicl.settings import Paths, Settings, Values

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


MODEL = f"ensemble {VERSION}"


def candle(at: datetime, close: float, source: str = "mexc") -> Candle:
    return Candle(
        source=source,
        asset="qubic",
        interval="1h",
        closed_at=at,
        open=close,
        high=close,
        low=close,
        close=close,
        volume=1.0,
        quote="USDT",
        fetched_at=at,
        sha256="0" * 64,
    )


def says_up(snapshot: Snapshot, horizon: timedelta) -> Any:
    """A forecast as the ensemble would give it, without training one."""
    last = snapshot.candles.index[-1].to_pydatetime()
    price = float(snapshot.candles["close"].iloc[-1])
    return SimpleNamespace(
        asset=snapshot.asset,
        method="A long description of the method. " * 20,
        method_version=VERSION,
        sources=(snapshot.candles.attrs["source"],),
        as_of=last,
        until=last + horizon,
        direction="up",
        probability_up=0.6,
        price=price,
        target=price * 1.01,
        low=price * 0.9,
        high=price * 1.1,
    )


def test_a_forecast_stands_before_its_outcome_and_is_never_rewritten(store: Store, tmp_path: Path) -> None:
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    store.add(Batch(source="mexc", candles=(candle(NOW, 1.0),)), now=NOW)
    assert keep_record(store, settings, NOW, says_up) == (1, 0)
    assert keep_record(store, settings, NOW + HOUR / 2, says_up) == (0, 0), "one a bar"

    late = NOW + HORIZON
    assert keep_record(store, settings, late, says_up)[1] == 0, "its bar is not stored yet"
    store.add(Batch(source="mexc", candles=(candle(late - HOUR, 5.0), candle(late, 1.2))), now=late)
    assert keep_record(store, settings, late, says_up)[1] == 1
    assert keep_record(store, settings, late, says_up)[1] == 0

    known, _ = Records(store).made("qubic", MODEL, NOW, late)
    assert known.written_at == NOW
    assert (known.probability, known.price, known.outcome_price) == (0.6, 1.0, 1.2)


def test_an_asset_with_too_little_history_is_passed_over(local_store: Store, tmp_path: Path) -> None:
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    local_store.add(Batch(source="mexc", candles=(candle(NOW, 1.0),)), now=NOW)

    def too_little(snapshot: Snapshot, horizon: timedelta) -> Any:
        raise TooLittleHistoryError("too few bars")

    assert keep_record(local_store, settings, NOW, too_little) == (0, 0)
    assert keep_record(local_store, settings, NOW) == (0, 0), "the oracle's own, on one bar"


# --- no look-ahead -------------------------------------------------------------------------------


def test_a_forecast_for_a_moment_that_has_passed_is_not_written_down(local_store: Store, tmp_path: Path) -> None:
    """After a day without new bars the present is later than the target: its outcome may be known."""
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    local_store.add(Batch(source="mexc", candles=(candle(NOW, 1.0),)), now=NOW)
    assert keep_record(local_store, settings, NOW + HORIZON, says_up) == (0, 0)
    assert keep_record(local_store, settings, NOW + HORIZON - HOUR / 60, says_up) == (1, 0)


def test_the_outcome_is_read_from_the_exchange_that_the_forecast_was_made_of(
    local_store: Store, tmp_path: Path
) -> None:
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    target = NOW + HORIZON
    local_store.add(Batch(source="mexc", candles=(candle(NOW, 1.0),)), now=NOW)
    keep_record(local_store, settings, NOW, says_up)
    elsewhere = tuple(candle(target - back * HOUR, 0.5, "gate") for back in range(3))
    local_store.add(Batch(source="gate", candles=elsewhere), now=target)
    assert resolve_due(local_store, settings, target) == 0
    local_store.add(Batch(source="mexc", candles=(candle(target, 1.1),)), now=target)
    assert resolve_due(local_store, settings, target) == 1
    assert Records(local_store).made("qubic", MODEL, NOW, target)[0].outcome_price == 1.1


# --- the record that a report shows --------------------------------------------------------------


def forecast(hour: int, probability: float, outcome: float | None, **changes: Any) -> ForecastRecord:
    made = NOW + hour * HOUR
    fixed = ForecastRecord(
        asset="qubic",
        model=MODEL,
        made_at=made,
        target_at=made + HORIZON,
        written_at=made + HOUR / 4,
        direction="up",
        probability=probability,
        price=1.0,
        source="mexc",
        outcome_price=outcome,
        resolved_at=None if outcome is None else made + HORIZON + HOUR / 4,
    )
    return msgspec.structs.replace(fixed, **changes)


def test_the_record_counts_what_was_known_at_its_moment_and_nothing_later(store: Store) -> None:
    kept = [forecast(0, 0.6, 1.1), forecast(1, 0.6, 0.9), forecast(48, 0.3, 0.8), forecast(60, 0.7, None)]
    noise = [forecast(0, 0.9, 2.0, asset="bitcoin"), forecast(0, 0.9, 2.0, model="ensemble 0")]
    early = NOW + 48 * HOUR
    Records(store).save_forecasts([*kept[:2], *noise])
    before = live_record(store, "qubic", HORIZON, early)
    Records(store).save_forecasts(kept[2:])
    assert live_record(store, "qubic", HORIZON, early) == before, "the same inputs, the same record"
    assert (before.made, before.resolved, before.since, before.next_at) == (2, 2, NOW, None)

    found = live_record(store, "qubic", HORIZON, NOW + 80 * HOUR)
    assert (found.made, found.resolved, found.next_at) == (4, 3, NOW + 60 * HOUR + HORIZON)
    assert found.effective == 2, "the second begins before the first has ended"
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert found.constant == pytest.approx(2 / 3)
    assert found.brier == pytest.approx((0.16 + 0.36 + 0.09) / 3)
    assert found.brier_base == pytest.approx(2 / 9)


def test_an_outcome_that_was_written_later_is_not_known_yet(local_store: Store) -> None:
    Records(local_store).save_forecasts([forecast(0, 0.6, 1.1)])
    found = live_record(local_store, "qubic", HORIZON, NOW + HORIZON + HOUR / 8)
    assert (found.made, found.resolved, found.next_at, found.accuracy) == (1, 0, NOW + HORIZON, None)


def test_a_record_that_does_not_exist_says_why(local_store: Store) -> None:
    Records(local_store).save_forecasts([forecast(0, 0.6, 1.1)])
    assert live_record(local_store, "bitcoin", HORIZON, NOW + HORIZON) == LiveRecord()
    assert live_record(local_store, "qubic", HOUR, NOW + HORIZON) == LiveRecord(kept=False)
    with recorded_store() as shipped:
        assert live_record(shipped, "ethereum", HORIZON, NOW) == LiveRecord(recorded=True)


def test_the_interval_is_wilsons() -> None:
    """10 of 20: 0.299 to 0.701 (Wilson 1927, as in any table of score intervals); it never leaves 0 to 1."""
    twenty = [forecast(24 * day, 0.6, 1.1 if day < 10 else 0.9) for day in range(20)]
    found = judge(twenty, NOW + timedelta(days=60))
    assert found.effective == 20
    assert found.accuracy is not None
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0.299, 0.701), abs=5e-4)
    one = judge(twenty[:1], NOW + timedelta(days=60)).accuracy
    assert one is not None
    assert (one.low, one.high) == pytest.approx((0.2065, 1.0), abs=5e-4)


def test_what_is_older_than_half_a_year_is_not_counted(local_store: Store) -> None:
    Records(local_store).save_forecasts([forecast(0, 0.6, 1.1), forecast(24 * 100, 0.6, 1.1)])
    found = live_record(local_store, "qubic", HORIZON, NOW + timedelta(days=200))
    assert (found.made, found.since) == (1, NOW + timedelta(days=100))


def test_an_outcome_is_waited_for_as_long_as_holes_are_filled(local_store: Store, tmp_path: Path) -> None:
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    Records(local_store).save_forecasts([forecast(0, 0.6, None)])
    local_store.add(Batch(source="mexc", candles=(candle(NOW + HORIZON, 1.1),)), now=NOW)
    filled_for = timedelta(days=settings.values.oracle.history_days)
    assert resolve_due(local_store, settings, NOW + HORIZON + filled_for + HOUR) == 0
    assert resolve_due(local_store, settings, NOW + HORIZON + filled_for) == 1


# --- databases from before -----------------------------------------------------------------------


def test_forecasts_from_before_are_kept_and_still_get_their_outcome(empty_database_url: str, tmp_path: Path) -> None:
    url = make_url(empty_database_url)
    url = url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(database.MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.execute(
            text(
                "INSERT INTO forecasts (asset, model, made_at, target_at, direction, probability, price) "
                "VALUES ('qubic', 'old 1', '2026-01-10 12:00:00+00', '2026-01-11 12:00:00+00', 'up', 0.6, 1.0)"
                if url.get_backend_name() == "postgresql"
                else "INSERT INTO forecasts (asset, model, made_at, target_at, direction, probability, price) VALUES "
                "('qubic', 'old 1', '2026-01-10 12:00:00.000000', '2026-01-11 12:00:00.000000', 'up', 0.6, 1.0)"
            )
        )
    engine.dispose()
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    with Store(database.connect(url)) as store:
        with store.reading() as connection:
            assert not inspect(connection).has_table("reports")
        store.add(Batch(source="gate", candles=(candle(NOW + HORIZON, 1.3, "gate"),)), now=NOW)
        assert resolve_due(store, settings, NOW + HORIZON) == 1
        (old,) = Records(store).made("qubic", "old 1", NOW - HOUR, NOW + HORIZON)
    assert (old.source, old.written_at, old.outcome_price) == ("", NOW, 1.3)
