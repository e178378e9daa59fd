"""Everything known about an asset at one moment: the one input of sentiment, forecast, risk and report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from qaicl.errors import NothingStoredError
from qaicl.oracle.aggregation import aggregate, counted_as
from qaicl.oracle.last_day import known_or_from_bars
from qaicl.oracle.observations import (
    INTERVALS,
    MARKET,
    Figure,
    Headline,
    Interval,
    NetworkStats,
    SourceHealth,
    State,
)
from qaicl.oracle.store import Store
from qaicl.settings import OracleSettings

if TYPE_CHECKING:
    import pandas as pd

RECENT = timedelta(hours=26)
"""A source that failed longer ago is not asked any more: it was taken out of the settings. No source is left alone for
more than a day."""


class Flag(msgspec.Struct, frozen=True):
    """One thing about the data that the reader of a report must know."""

    subject: str
    """``price``, ``candles``, ``headlines``, ``network``, ``source:<name>``, ``recorded`` …"""
    state: State
    reason: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An asset and its market at ``now``; nothing in it was observed later."""

    asset: str
    now: datetime
    recorded: bool
    """Made from the records that ship with the project: never current."""
    price: Figure
    market_cap: Figure
    volume_24h: Figure
    """Rolling 24 h volume: in the price's currency, or of one exchange in its quote currency."""
    change_24h: Figure
    """Percent."""
    circulating_supply: Figure
    total_supply: Figure
    max_supply: Figure
    candles: pd.DataFrame
    """See :meth:`qaicl.oracle.store.Store.candles`; ``history_days`` back from now."""
    interval: Interval
    headlines: tuple[Headline, ...]
    """Those that name the asset and those on the market as a whole, oldest first, ``history_days`` back."""
    network: tuple[NetworkStats, ...]
    """Oldest first; empty for an asset without a network of its own."""
    fear_greed: Figure
    fear_greed_history: tuple[tuple[datetime, float], ...]
    """(day, 0 to 100), oldest first."""
    news_tone: Figure
    sources: tuple[SourceHealth, ...]
    flags: tuple[Flag, ...]

    @property
    def state(self) -> State:
        """The price's state, DEGRADED where the price is fresh but another flag says so."""
        if self.price.state is State.fresh and any(f.state is not State.fresh for f in self.flags):
            return State.degraded
        return self.price.state

    @classmethod
    def load(
        cls, store: Store, asset: str, now: datetime | None = None, *, settings: OracleSettings | None = None
    ) -> Snapshot:
        """What the store knows of an asset.

        Args:
            now: the moment to look from; None is the present, or for recorded data their last moment.
            settings: staleness limits and history length; None takes the defaults.

        Raises:
            NothingStoredError: neither a price, nor a candle, nor a network figure up to that moment.
            OracleStoreError: the database fails.
        """
        settings = settings or OracleSettings()
        if now is None:
            now = (store.as_of(asset) if store.recorded else None) or datetime.now(UTC)
        start = now - timedelta(days=settings.history_days)
        until = now + timedelta(microseconds=1)
        interval: Interval = settings.candle_interval
        price, doubted = _price(store, asset, now, settings)
        candles = store.candles(asset, start, now, interval, without=doubted)
        network = store.network(asset, start, until)
        if price.value is None and candles.empty and not network:
            known = ", ".join(store.assets()) or "nothing at all"
            raise NothingStoredError(
                f"nothing is stored of {asset}",
                why=f"the store holds {known}",
                fix="run: qaicl oracle collect",
            )

        def figure(metric: str, subject: str, max_age: float) -> Figure:
            found = store.latest(metric, subject, until=now)
            limits = settings.source_max_age
            return aggregate(metric, found, now=now, max_age=max_age, min_sources=1, source_max_age=limits)

        def last_day(metric: str) -> Figure:
            told = figure(metric, asset, settings.price_max_age)
            return known_or_from_bars(told, candles, INTERVALS[interval], now, settings.price_max_age)

        fear_greed = figure("fear_greed", MARKET, settings.mood_max_age)
        mood = store.observations("fear_greed", start, until, asset=MARKET)
        headlines = tuple(h for h in store.headlines(start, until) if not h.assets or asset in h.assets)
        sources = tuple(health for _, health in sorted(store.health().items()))
        return cls(
            asset=asset,
            now=now,
            recorded=store.recorded,
            price=price,
            market_cap=figure("market_cap", asset, settings.price_max_age),
            volume_24h=last_day("volume_24h"),
            change_24h=last_day("change_24h"),
            circulating_supply=figure("circulating_supply", asset, settings.network_max_age),
            total_supply=figure("total_supply", asset, settings.network_max_age),
            max_supply=figure("max_supply", asset, settings.network_max_age),
            candles=candles,
            interval=interval,
            headlines=headlines,
            network=tuple(network),
            fear_greed=fear_greed,
            fear_greed_history=tuple((o.observed_at, o.value) for o in mood if o.value is not None),
            news_tone=figure("news_tone", asset, settings.mood_max_age),
            sources=sources,
            flags=tuple(
                _flags(price, doubted, fear_greed, candles, interval, headlines, network, sources, store, now, settings)
            ),
        )


def failures(health: SourceHealth, now: datetime) -> int:
    """A source's failures in a row; 0 where it is not asked any more."""
    last = health.last_failure
    return health.failures if last is not None and now - RECENT <= last <= now else 0


def _price(store: Store, asset: str, now: datetime, settings: OracleSettings) -> tuple[Figure, set[str]]:
    """Tickers, and an exchange's last close where it has no newer ticker; and whose price in time strays too far."""
    found = store.latest("price", asset, until=now) + store.last_closes(asset, settings.candle_interval, until=now)
    price = aggregate(
        "price",
        found,
        now=now,
        max_age=settings.price_max_age,
        min_sources=settings.min_sources,
        source_max_age=settings.source_max_age,
    )
    doubted = {
        one.source
        for one in found
        if one.source not in price.sources
        and price.state is not State.stale
        and counted_as(one.unit) == counted_as(price.unit)
        and (now - one.observed_at).total_seconds() <= settings.source_max_age.get(one.source, settings.price_max_age)
    }
    return price, doubted


def _flags(
    price: Figure,
    doubted: set[str],
    fear_greed: Figure,
    candles: pd.DataFrame,
    interval: Interval,
    headlines: tuple[Headline, ...],
    network: list[NetworkStats],
    sources: tuple[SourceHealth, ...],
    store: Store,
    now: datetime,
    settings: OracleSettings,
) -> list[Flag]:
    flags: list[Flag] = []
    if store.recorded:
        flags.append(
            Flag("recorded", State.stale, f"recorded data as of {now:%Y-%m-%d %H:%M} UTC, not the present market")
        )
    if price.state is not State.fresh:
        flags.append(Flag("price", price.state, "; ".join(price.reasons)))
    if fear_greed.state is not State.fresh:
        flags.append(Flag("fear_greed", fear_greed.state, "; ".join(fear_greed.reasons)))
    if candles.empty:
        flags.append(Flag("candles", State.missing, f"no {interval} bars are stored"))
    else:
        age = now - candles.index[-1].to_pydatetime()
        if age > 2 * INTERVALS[interval]:
            flags.append(Flag("candles", State.stale, f"the last bar closed {age.total_seconds():.0f} s ago"))
        if candles.attrs["source"] in doubted:
            reason = f"they are of {candles.attrs['source']}, whose price is too far from the others"
            flags.append(Flag("candles", State.degraded, reason))
        if candles.attrs["missing"]:
            flags.append(Flag("candles", State.degraded, f"{candles.attrs['missing']} bars are missing in between"))
    if not headlines:
        flags.append(Flag("headlines", State.missing, "no headlines are stored"))
    elif (age := now - headlines[-1].published_at).total_seconds() > settings.headlines_max_age:
        flags.append(Flag("headlines", State.stale, f"the newest is {age.total_seconds():.0f} s old"))
    if network and (age := now - network[-1].observed_at).total_seconds() > settings.network_max_age:
        flags.append(Flag("network", State.stale, f"the newest figures are {age.total_seconds():.0f} s old"))
    flags += [
        Flag(f"source:{health.source}", State.degraded, f"failed {health.failures} times in a row: {health.reason}")
        for health in sources
        if failures(health, now)
    ]
    return flags
