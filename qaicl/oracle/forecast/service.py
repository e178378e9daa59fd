"""A forecast for a snapshot, with its backtest; cached by the data it was made from."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaicl.errors import TooLittleHistoryError, UsageError
from qaicl.oracle.forecast.records import BacktestRecord, Direction, Forecast, Opinion
from qaicl.oracle.kept import keep
from qaicl.oracle.observations import INTERVALS
from qaicl.oracle.snapshot import Snapshot

if TYPE_CHECKING:
    from qaicl.oracle.forecast.backtest import History

SEED = 7
FLAT = 0.02
"""A probability nearer to one half than this names no direction."""
DISCLAIMER = "This is a statistical statement about past prices, not advice to buy or sell."


def forecast(snapshot: Snapshot, horizon: timedelta, *, cache: Path | None = None) -> Forecast:
    """Direction, probability, target and interval for the price ``horizon`` after the last bar.

    The first call for a bar trains and backtests (seconds); with a ``cache`` directory a second one reads the answer.

    Raises:
        UsageError: the horizon is not a whole number of bars.
        TooLittleHistoryError: there are too few candles.
    """
    bar = INTERVALS[snapshot.interval]
    bars = horizon // bar
    if bars < 1 or bars * bar != horizon:
        raise UsageError(
            f"a horizon of {horizon} does not fit {snapshot.interval} bars",
            why="it must be a whole number of them",
            fix=f"choose a multiple of {bar}",
        )
    if snapshot.candles.empty:
        raise TooLittleHistoryError(
            f"no candles of {snapshot.asset}",
            why="the records that ship with qaicl hold none" if snapshot.recorded else "none are stored",
            fix="run: qaicl oracle collect, then the report without --recorded"
            if snapshot.recorded
            else "run: qaicl oracle collect",
        )
    from qaicl.oracle.forecast.backtest import backtest, history

    past = history(snapshot.candles, snapshot.interval, bars, snapshot.fear_greed_history, snapshot.network)
    kept = cache / f"forecast-{snapshot.asset}-{bars}x{snapshot.interval}.json" if cache else None
    if kept is not None and (found := _read(kept, past.digest)) is not None:
        return found
    made = _make(snapshot, horizon, past, backtest(past, SEED))
    if kept is not None:
        keep(kept, msgspec.json.encode(made))
    return made


def _read(path: Path, digest: str) -> Forecast | None:
    """A kept forecast of the same data; anything unreadable counts as none and is made again."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Forecast)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept if kept.record.data == digest else None


def _make(snapshot: Snapshot, horizon: timedelta, past: History, record: BacktestRecord) -> Forecast:
    """Fit on everything known and look at the last bar."""
    from qaicl.oracle.forecast.backtest import METHOD, VERSION, spread
    from qaicl.oracle.forecast.ensemble import Ensemble, combine

    rises = past.rises
    ensemble = Ensemble(SEED)
    ensemble.fit(past.table.before(past.known), rises)
    last = len(past.close) - 1
    said = ensemble.predict(past.table, slice(last, last + 1))
    probability = float(combine(said, rises, 1)[0])
    direction: Direction = "flat" if abs(probability - 0.5) < FLAT else "up" if probability > 0.5 else "down"

    price = float(past.close[last])
    low, high = (price * math.exp(edge * past.volatility[last]) for edge in spread(past, past.known))
    move = (2.0 * probability - 1.0) * float(abs(past.outcome[: past.known]).mean())
    target = min(max(price * math.exp(move), low), high) if record.verdict == "EDGE" else price
    as_of = past.times[last].to_pydatetime()
    attributes = snapshot.candles.attrs
    return Forecast(
        asset=snapshot.asset,
        as_of=as_of,
        until=as_of + horizon,
        horizon_seconds=horizon.total_seconds(),
        price=price,
        quote=str(attributes.get("quote", "")),
        direction=direction,
        probability=1.0 - probability if direction == "down" else probability,
        probability_up=probability,
        target=target,
        low=low,
        high=high,
        coverage=0.8,
        factors=tuple(ensemble.factors(past.table)[:6]),
        parts=tuple(
            Opinion(
                part=name,
                probability=float(said[name][0]) if name in said else None,
                reason=ensemble.abstained.get(name, ""),
            )
            for name in ("technical", "fundamental", "lstm")
        ),
        record=record,
        verdict=record.verdict,
        method=METHOD,
        method_version=VERSION,
        sources=(str(attributes.get("source", "")),),
        recorded=snapshot.recorded,
        disclaimer=DISCLAIMER,
    )
