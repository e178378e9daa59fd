"""What the oracle said, kept: reports as they were given out, forecasts with the outcome that came later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import select

from qaicl.oracle.store import Store, upsert
from qaicl.oracle.tables import forecasts, reports


class ReportRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A report as it was given out; ``id`` is the digest of its body."""

    id: str
    asset: str
    kind: str
    """``report``, ``risk``, ``sentiment``."""
    created_at: datetime
    body: str
    """JSON."""


class ForecastRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One forecast, written before its outcome is known."""

    asset: str
    model: str
    """Method and version."""
    made_at: datetime
    target_at: datetime
    direction: Literal["up", "down", "flat"]
    probability: float
    """Of the price being higher at ``target_at`` than at ``made_at``, 0 to 1."""
    price: float
    target_price: float | None = None
    low: float | None = None
    high: float | None = None
    outcome_price: float | None = None
    resolved_at: datetime | None = None


class Records:
    """Reports and forecasts in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save_report(self, report: ReportRecord) -> None:
        """Keep a report; saving it twice changes nothing."""
        with self._store.writing() as connection:
            upsert(connection, reports, [msgspec.structs.asdict(report)], ())

    def reports(self, asset: str, kind: str, *, limit: int = 20) -> list[ReportRecord]:
        """The newest reports on an asset, newest first."""
        mine = select(reports).where(reports.c.asset == asset, reports.c.kind == kind)
        with self._store.reading() as connection:
            rows = connection.execute(mine.order_by(reports.c.created_at.desc()).limit(limit)).mappings()
            return [ReportRecord(**row) for row in rows]

    def save_forecasts(self, made: Sequence[ForecastRecord]) -> int:
        """Keep forecasts; one that stands already is never overwritten. Returns how many were new."""
        with self._store.writing() as connection:
            return upsert(connection, forecasts, [msgspec.structs.asdict(forecast) for forecast in made], ())

    def open_forecasts(self, now: datetime) -> list[ForecastRecord]:
        """Forecasts whose time has come and whose outcome is not written yet."""
        query = select(forecasts).where(forecasts.c.resolved_at.is_(None), forecasts.c.target_at <= now)
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

    def resolved(self, asset: str, model: str, start: datetime, end: datetime) -> list[ForecastRecord]:
        """Forecasts with their outcome, made in that time, oldest first."""
        query = select(forecasts).where(
            forecasts.c.asset == asset,
            forecasts.c.model == model,
            forecasts.c.made_at >= start,
            forecasts.c.made_at < end,
            forecasts.c.resolved_at.is_not(None),
        )
        with self._store.reading() as connection:
            rows = connection.execute(query.order_by(forecasts.c.made_at)).mappings()
            return [ForecastRecord(**row) for row in rows]
