"""What was forecast, and what came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qaicl.errors import TooLittleHistoryError
from qaicl.oracle.observations import Batch, Candle
from qaicl.oracle.records import Records
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.oracle.track_record import HORIZON, keep_record
from qaicl.settings import Paths, Settings, Values

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def candle(at: datetime, close: float) -> Candle:
    return Candle(
        source="mexc",
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
        method="test",
        method_version="1",
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

    (known,) = Records(store).resolved("qubic", "test 1", NOW, NOW + HOUR)
    assert (known.probability, known.price, known.outcome_price) == (0.6, 1.0, 1.2)


def test_an_asset_with_too_little_history_is_passed_over(local_store: Store, tmp_path: Path) -> None:
    settings = Settings(Values(), Paths(tmp_path, tmp_path, tmp_path), "default")
    local_store.add(Batch(source="mexc", candles=(candle(NOW, 1.0),)), now=NOW)

    def too_little(snapshot: Snapshot, horizon: timedelta) -> Any:
        raise TooLittleHistoryError("too few bars")

    assert keep_record(local_store, settings, NOW, too_little) == (0, 0)
    assert keep_record(local_store, settings, NOW) == (0, 0), "the oracle's own, on one bar"
