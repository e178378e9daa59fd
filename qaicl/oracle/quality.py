"""What a source may say and be believed; everything else goes to quarantine with its reason."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from qaicl.oracle.observations import Candle, Headline, Kind, NetworkStats, Observation, utc

EARLIEST = datetime(2009, 1, 3, tzinfo=UTC)
"""Bitcoin's first block: nothing on this market is older."""
AHEAD = timedelta(minutes=5)
"""How far a source's clock may run ahead."""


def time_fault(moment: datetime, now: datetime) -> str:
    """Why a moment cannot be right; empty where it can."""
    if utc(moment) < EARLIEST:
        return f"dated {moment.isoformat()}, before the market existed"
    if utc(moment) > now + AHEAD:
        return f"dated {moment.isoformat()}, in the future"
    return ""


def observation_fault(observation: Observation, now: datetime) -> str:
    """Why an observation is not believed; empty where it is."""
    value = observation.value
    if value is None and observation.text is None:
        return f"{observation.metric} is null"
    if value is not None and not math.isfinite(value):
        return f"{observation.metric} is {value}"
    if value is not None:
        if observation.metric == "price" and value <= 0:
            return f"price is {value:g}"
        if observation.kind in (Kind.supply,) or observation.metric in ("market_cap", "volume_24h"):
            if value < 0:
                return f"{observation.metric} is {value:g}"
        elif observation.kind is Kind.mood and not 0 <= value <= 100:
            return f"{observation.metric} is {value:g}, outside 0 to 100"
    return time_fault(observation.observed_at, now)


def candle_fault(candle: Candle, now: datetime) -> str:
    """Why a bar is not believed; empty where it is."""
    prices = (candle.open, candle.high, candle.low, candle.close)
    if not all(math.isfinite(price) and price > 0 for price in prices):
        return f"prices {prices}"
    if not math.isfinite(candle.volume) or candle.volume < 0:
        return f"volume {candle.volume}"
    if not candle.low <= min(candle.open, candle.close) <= max(candle.open, candle.close) <= candle.high:
        return f"open {candle.open:g} or close {candle.close:g} outside low {candle.low:g} to high {candle.high:g}"
    return time_fault(candle.closed_at, now)


def headline_fault(headline: Headline, now: datetime) -> str:
    """Why a headline is not believed; empty where it is."""
    if not any(character.isalnum() for character in headline.title) or headline.title.casefold() == "[removed]":
        return "no title"
    return time_fault(headline.published_at, now)


def network_fault(stats: NetworkStats, now: datetime) -> str:
    """Why a network's figures are not believed; empty where they are."""
    for name in ("epoch", "tick", "ticks_in_epoch", "empty_ticks", "active_addresses", "circulating_supply", "burned"):
        value = getattr(stats, name)
        if value is not None and value < 0:
            return f"{name} is {value}"
    for name in ("tick_duration", "price", "market_cap"):
        value = getattr(stats, name)
        if value is not None and not 0 <= value < math.inf:
            return f"{name} is {value:g}"
    if stats.tick_quality is not None and not 0 <= stats.tick_quality <= 100:
        return f"tick_quality is {stats.tick_quality:g}, outside 0 to 100"
    return time_fault(stats.observed_at, now)
