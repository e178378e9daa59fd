"""How figures read as text, the same in every renderer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from qaicl.i18n import Translator
from qaicl.oracle.observations import State
from qaicl.oracle.report.document import Absent, Report

Translate = Translator

STEPS = ((86_400.0, "{n} d"), (3_600.0, "{n} h"), (60.0, "{n} min"))
BIG = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
NONE = "–"

FIGURE_NAMES = {
    "price": "Price",
    "change_24h": "Change in 24 h",
    "volume_24h": "Traded in 24 h",
    "market_cap": "Market capitalisation",
    "circulating_supply": "Circulating supply",
    "fear_greed": "Fear and greed (0–100)",
    "news_tone": "Tone of the news",
}
SERIES_NAMES = {
    "price": "Price",
    "volume": "Volume",
    "joint": "Return, volume and range together",
    "active_addresses": "Active addresses",
    "tick_duration": "Tick duration",
    "tick_quality": "Tick quality",
}


SUBJECT_NAMES = {
    "recorded": "recorded",
    "price": "Price",
    "fear_greed": "Fear and greed (0–100)",
    "candles": "Bars",
    "headlines": "headlines",
    "network": "network",
}
NO_POSTS = "No social posts were read: the score is of news alone."


def subject(name: str, t: Translate) -> str:
    """What a note is about."""
    kind, _, source = name.partition(":")
    return f"{t('Source')} {t(source)}" if source else t(SUBJECT_NAMES.get(kind, kind))


def listed(names: Sequence[str], t: Translate) -> str:
    """Names of sources; those of the records that ship with the project are translated."""
    return t(", ").join(t(name) for name in names) or NONE


def absence(part: Absent, t: Translate) -> str:
    """Why a part is not there, and what to do."""
    fix = t.filled(part.fix)
    return f"{t('Not available')}{t(': ')}{t.filled(part.why)}" + (f"{t('. ')}{fix}" if fix else "")


def no_bars(report: Report, t: Translate) -> str:
    """That nothing can be drawn or computed of bars."""
    missing = "the records that ship with qaicl have no bars of this asset" if report.recorded else "no bars are stored"
    return f"{t('Not available')}{t(': ')}{t(missing)}"


def number(value: float | None, digits: int = 4) -> str:
    """A number in plain notation with so many significant digits, thousands grouped, large ones as M, B, T."""
    if value is None or not math.isfinite(value):
        return NONE
    for size, letter in BIG:
        if abs(value) >= size:
            return f"{value / size:,.2f} {letter}"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.{max(0, digits - 4)}f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 14)}f}"


def with_unit(value: float | None, unit: str, digits: int = 4) -> str:
    """A number and its unit; percent as a sign."""
    text = number(value, digits)
    if text == NONE or not unit:
        return text
    return f"{text} %" if unit in ("%", "percent") else f"{text} {unit}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share of 1 as percent."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign."""
    return NONE if value is None or not math.isfinite(value) else f"{value:+.{digits}f}"


def age(seconds: float | None, t: Translate) -> str:
    """An age in its largest fitting unit."""
    if seconds is None:
        return NONE
    for size, text in STEPS:
        if seconds >= size:
            return t(text, n=f"{seconds / size:.0f}")
    return t("{n} s", n=f"{seconds:.0f}")


def moment(at: datetime | None) -> str:
    """A time to the minute, always UTC and saying so."""
    return NONE if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def span(seconds: float, t: Translate) -> str:
    """A forecast's horizon: hours up to two days, days beyond."""
    hours = seconds / 3600
    if hours > 48 and hours % 24 == 0:
        return t("{n} d", n=f"{hours / 24:.0f}")
    return t("{n} h", n=f"{hours:g}") if hours >= 1 else t("{n} min", n=f"{seconds / 60:.0f}")


STATE_TONE = {State.fresh: "good", State.degraded: "warn", State.stale: "bad", State.missing: "bad"}
LEVEL_TONE = {"LOW": "good", "MEDIUM": "warn", "HIGH": "bad", "CRITICAL": "bad"}
"""Tone words that each renderer maps to its own colours."""
