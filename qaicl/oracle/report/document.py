"""A report as plain data: everything that any renderer shows, and nothing that depends on how it is shown."""

from __future__ import annotations

from datetime import datetime

import msgspec

from qaicl.oracle.anomalies.scan import Anomaly
from qaicl.oracle.forecast.records import Forecast
from qaicl.oracle.observations import Figure, SourceHealth, State
from qaicl.oracle.risk.assessment import RiskAssessment
from qaicl.oracle.sentiment.report import SentimentReport
from qaicl.oracle.track_record import LiveRecord

NOT_ADVICE = "This report describes data and models. It is not advice to buy or sell anything."


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One thing about the data that a reader must know."""

    subject: str
    state: State
    reason: str


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """The bars that the report's charts and indicators are made of; equally long columns, oldest first."""

    source: str
    quote: str
    interval: str
    missing: int
    """Bars lacking between the first and the last."""
    hashes: tuple[str, ...]
    times: tuple[datetime, ...]
    close: tuple[float, ...]
    volume: tuple[float, ...]
    indicators: dict[str, tuple[float | None, ...]]
    """Column of :mod:`qaicl.oracle.indicators` → a value a bar; None until it has enough bars."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One indicator's newest value, and what it says in words."""

    name: str
    value: float | None
    unit: str
    says: str


class RiskPoint(msgspec.Struct, frozen=True):
    """The market's risk as it would have been assessed at a past bar, from data up to that bar only."""

    at: datetime
    points: float


class Absent(msgspec.Struct, frozen=True, kw_only=True):
    """A section that could not be made."""

    why: str
    fix: str = ""


class Narrative(msgspec.Struct, frozen=True, kw_only=True):
    """A paragraph written by a language model, each of whose numbers is one of the report's."""

    text: str
    model: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The market report on one asset."""

    asset: str
    as_of: datetime
    """The moment that the report looks from; nothing in it was observed later."""
    generated_at: datetime
    """The report's own time: the only field in which two reports of the same inputs differ."""
    recorded: bool
    state: State
    horizon_seconds: float
    figures: tuple[Figure, ...]
    notes: tuple[Note, ...]
    bars: Bars | None
    readings: tuple[Reading, ...]
    sentiment: SentimentReport | None
    forecast: Forecast | None
    risk: RiskAssessment
    risk_trend: tuple[RiskPoint, ...]
    anomalies: tuple[Anomaly, ...]
    """Newest first."""
    sources: tuple[SourceHealth, ...]
    methods: dict[str, str]
    """Part → method and version."""
    inputs: str
    """Digest of everything the report was made from: equal digests, equal reports."""
    disclaimer: str = NOT_ADVICE
    narrative: Narrative | None = None
    live: LiveRecord = LiveRecord()
    """How the forecasts that were written down for this horizon have done."""
    absent: dict[str, Absent] = {}
    """``sentiment``, ``forecast``, ``narrative`` → why it is None; a narrative nobody asked for is not named."""


def as_dict(report: Report) -> dict[str, object]:
    """The report as JSON-ready data."""
    plain: dict[str, object] = msgspec.to_builtins(report)
    return plain
