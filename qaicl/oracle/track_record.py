"""The forecasts' true record: each is written down when it is made, its outcome when its time has come.

A backtest says how a method would have done; this says how it did. It also keeps the forecast's cache warm, so that
a report need not train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from qaicl.errors import NothingStoredError, TooLittleHistoryError
from qaicl.oracle.forecast.records import Forecast, Range
from qaicl.oracle.observations import INTERVALS
from qaicl.oracle.records import ForecastRecord, Records
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.settings import Settings

HORIZON = timedelta(hours=24)
"""The report's default, and the one that is written down."""
WINDOW = timedelta(days=180)
"""How far back the record is read: 4,320 hourly forecasts, which take a tenth of a second."""
Z = 1.96
"""Standard deviations of a normal distribution that hold 95 %."""


class LiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the forecasts that were written down have done, as known at one moment."""

    recorded: bool = False
    """Of the records that ship with the project: they have no forecasts of their own."""
    kept: bool = True
    """False for a horizon of which no forecasts are written down."""
    made: int = 0
    resolved: int = 0
    """Those whose outcome is known."""
    since: datetime | None = None
    """When the first was made."""
    next_at: datetime | None = None
    """For when the next outcome without a bar yet was forecast."""
    effective: float = 0.0
    """Resolved forecasts that do not overlap."""
    accuracy: Range | None = None
    """Share that named the right direction, with Wilson's 95 % interval (1927) over ``effective`` forecasts."""
    constant: float | None = None
    """Share that always naming the direction that came more often would have had: the best in hindsight."""
    brier: float | None = None
    brier_base: float | None = None
    """Brier score of always saying the share of rises, again in hindsight."""


def keep_record(
    store: Store,
    settings: Settings,
    now: datetime,
    forecast: Callable[[Snapshot, timedelta], Forecast] | None = None,
) -> tuple[int, int]:
    """Forecast every asset of the settings and write it down; write the outcomes that are known by now.

    An asset with too little history is passed over, and so is a forecast for a moment that has passed, as of bars
    that are too old: its outcome may be known. Doing it twice for one bar changes nothing.

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
        if made.until > now:
            written += records.save_forecasts([_record(made, now)])
    return written, resolve_due(store, settings, now)


def resolve_due(store: Store, settings: Settings, now: datetime) -> int:
    """Write the outcome of each forecast whose bar is stored by now; the others wait. Returns how many.

    They wait for as long as holes are filled, ``oracle.history_days``; without a bar by then there is no outcome.
    """
    records = Records(store)
    oracle = settings.values.oracle
    interval = oracle.candle_interval
    resolved = 0
    for due in records.open_forecasts(now - timedelta(days=oracle.history_days), now):
        # From the same exchange: the difference between two of them is no move of the market.
        start = due.target_at - INTERVALS[interval]
        bars = store.candles(due.asset, start, due.target_at, interval, source=due.source or None)
        if bars.empty or bars.index[-1] != due.target_at:
            continue
        records.resolve(due, float(bars["close"].iloc[-1]), now)
        resolved += 1
    return resolved


def live_record(store: Store, asset: str, horizon: timedelta, now: datetime) -> LiveRecord:
    """The record of the present method on an asset, of what was written down and known at ``now`` and nothing later.

    Raises:
        OracleStoreError: the database fails.
    """
    if store.recorded:
        return LiveRecord(recorded=True)
    if horizon != HORIZON:
        return LiveRecord(kept=False)
    made = Records(store).made(asset, _model(), now - WINDOW, now)
    return judge([one for one in made if one.target_at - one.made_at == horizon], now)


def judge(made: Sequence[ForecastRecord], now: datetime) -> LiveRecord:
    """Score forecasts of one horizon, oldest first, by the outcomes known at a moment."""
    if not made:
        return LiveRecord()
    done = [one.resolved_at is not None and one.resolved_at <= now for one in made]
    known = [one for one, is_known in zip(made, done, strict=True) if is_known]
    waiting = min((one.target_at for one, is_known in zip(made, done, strict=True) if not is_known), default=None)
    begun = LiveRecord(made=len(made), resolved=len(known), since=made[0].made_at, next_at=waiting)
    if not known:
        return begun
    rises = [one.outcome_price is not None and one.outcome_price > one.price for one in known]
    hits = sum((one.probability > 0.5) == rose for one, rose in zip(known, rises, strict=True))
    share = sum(rises) / len(known)
    effective = _apart(known)
    return msgspec.structs.replace(
        begun,
        effective=effective,
        accuracy=_wilson(hits / len(known), effective),
        constant=max(share, 1.0 - share),
        brier=sum((one.probability - rose) ** 2 for one, rose in zip(known, rises, strict=True)) / len(known),
        brier_base=share * (1.0 - share),
    )


def _apart(known: Sequence[ForecastRecord]) -> int:
    """How many forecasts, taken greedily from the oldest on, begin after the one before has ended."""
    count, ended = 0, None
    for one in known:
        if ended is None or one.made_at >= ended:
            count, ended = count + 1, one.target_at
    return count


def _wilson(share: float, count: float) -> Range:
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return Range(share, max(0.0, middle - half), min(1.0, middle + half))


def _model() -> str:
    from qaicl.oracle.forecast.backtest import VERSION

    return f"ensemble {VERSION}"


def _own(settings: Settings) -> Callable[[Snapshot, timedelta], Forecast]:
    from qaicl.oracle.forecast.service import forecast

    return lambda snapshot, horizon: forecast(snapshot, horizon, cache=settings.paths.data / "oracle" / "forecasts")


def _record(made: Forecast, now: datetime) -> ForecastRecord:
    return ForecastRecord(
        asset=made.asset,
        model=f"ensemble {made.method_version}",
        made_at=made.as_of,
        target_at=made.until,
        written_at=now,
        direction=made.direction,
        probability=made.probability_up,
        price=made.price,
        source=made.sources[0],
        target_price=made.target,
        low=made.low,
        high=made.high,
    )
