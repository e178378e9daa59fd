"""What the oracle said, kept: forecasts, with the outcome that came later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import select

from qaicl.oracle.rows import upsert
from qaicl.oracle.store import Store
from qaicl.oracle.tables import forecasts


class ForecastRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One forecast, written before its outcome is known."""

    asset: str
    model: str
    """Name and version: a new version begins a new record."""
    made_at: datetime
    """Close of the last bar that it knew."""
    target_at: datetime
    written_at: datetime
    """When it was written down; before ``target_at``."""
    direction: Literal["up", "down", "flat"]
    probability: float
    """Of the price being higher at ``target_at`` than at ``made_at``, 0 to 1."""
    price: float
    source: str
    """Whose bars it was made of; the outcome is read from the same ones."""
    target_price: float | None = None
    low: float | None = None
    high: float | None = None
    outcome_price: float | None = None
    resolved_at: datetime | None = None


class Records:
    """The forecasts in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save_forecasts(self, made: Sequence[ForecastRecord]) -> int:
        """Keep forecasts; one that stands already is never overwritten. Returns how many were new."""
        with self._store.writing() as connection:
            return upsert(connection, forecasts, [msgspec.structs.asdict(forecast) for forecast in made], ())

    def open_forecasts(self, start: datetime, now: datetime) -> list[ForecastRecord]:
        """Forecasts whose time has come, since ``start``, and whose outcome is not written yet."""
        due = forecasts.c.target_at.between(start, now)
        query = select(forecasts).where(forecasts.c.resolved_at.is_(None), due)
        with self._store.reading() as connection:
            rows = connection.execute(query.order_by(forecasts.c.target_at)).mappings()
            return [ForecastRecord(**row) for row in rows]

    def resolve(self, forecast: ForecastRecord, outcome_price: float, now: datetime) -> None:
        """Write a forecast's outcome, once."""
        key = [forecasts.c[name] == getattr(forecast, name) for name in ("asset", "model", "made_at", "target_at")]
        with self._store.writing() as connection:
            connection.execute(
                forecasts.update()
                .where(*key, forecasts.c.resolved_at.is_(None))
                .values(outcome_price=outcome_price, resolved_at=now)
            )

    def made(self, asset: str, model: str, start: datetime, end: datetime) -> list[ForecastRecord]:
        """Forecasts made and written down with ``start <= made_at`` and ``written_at <= end``, oldest first."""
        query = select(forecasts).where(
            forecasts.c.asset == asset,
            forecasts.c.model == model,
            forecasts.c.made_at >= start,
            forecasts.c.written_at <= end,
        )
        with self._store.reading() as connection:
            rows = connection.execute(query.order_by(forecasts.c.made_at, forecasts.c.target_at)).mappings()
            return [ForecastRecord(**row) for row in rows]
