"""The forecasts' true record: each is written down when it is made, its outcome when its time has come.

A backtest says how a method would have done; this says how it did. It also keeps the forecast's cache warm, so that
a report need not train.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from qaicl.errors import NothingStoredError, TooLittleHistoryError
from qaicl.oracle.forecast.records import Forecast
from qaicl.oracle.observations import INTERVALS
from qaicl.oracle.records import ForecastRecord, Records
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.settings import Settings

HORIZON = timedelta(hours=24)
"""The report's default."""


def keep_record(
    store: Store,
    settings: Settings,
    now: datetime,
    forecast: Callable[[Snapshot, timedelta], Forecast] | None = None,
) -> tuple[int, int]:
    """Forecast every asset of the settings and write it down; write the outcomes that are known by now.

    An asset with too little history is passed over. Doing it twice for one bar changes nothing.

    Args:
        forecast: None is the oracle's own, with the report's cache.

    Returns:
        Forecasts written, outcomes written.

    Raises:
        OracleStoreError: the database fails.
    """
    records = Records(store)
    make = forecast or _own(settings)
    written = 0
    for asset in settings.values.oracle.assets:
        try:
            made = make(Snapshot.load(store, asset, now, settings=settings.values.oracle), HORIZON)
        except (NothingStoredError, TooLittleHistoryError):
            continue
        written += records.save_forecasts([_record(made)])
    return written, resolve_due(store, settings, now)


def resolve_due(store: Store, settings: Settings, now: datetime) -> int:
    """Write the outcome of each forecast whose bar is stored by now; the others wait. Returns how many."""
    records = Records(store)
    interval = settings.values.oracle.candle_interval
    resolved = 0
    for due in records.open_forecasts(now):
        bars = store.candles(due.asset, due.target_at - INTERVALS[interval], due.target_at, interval)
        if bars.empty or bars.index[-1] != due.target_at:
            continue
        records.resolve(due, float(bars["close"].iloc[-1]), now)
        resolved += 1
    return resolved


def _own(settings: Settings) -> Callable[[Snapshot, timedelta], Forecast]:
    from qaicl.oracle.forecast.service import forecast

    return lambda snapshot, horizon: forecast(snapshot, horizon, cache=settings.paths.data / "oracle" / "forecasts")


def _record(made: Forecast) -> ForecastRecord:
    return ForecastRecord(
        asset=made.asset,
        model=f"{made.method} {made.method_version}",
        made_at=made.as_of,
        target_at=made.until,
        direction=made.direction,
        probability=made.probability_up,
        price=made.price,
        target_price=made.target,
        low=made.low,
        high=made.high,
    )
