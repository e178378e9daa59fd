"""CoinGecko: price, market capitalisation, volume, supply; and the hours in between where the oracle was away.

API v3. Demo plan: ``api.coingecko.com``, header ``x-cg-demo-api-key``; pro plan: ``pro-api.coingecko.com``, header
``x-cg-pro-api-key``. It answers without a key too, more slowly.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec

from qaicl.oracle.http import Reply
from qaicl.oracle.observations import Batch, Kind, Observation, utc
from qaicl.oracle.sources.protocol import Access, batch, moment, shaped

ROOTS = {"demo": "https://api.coingecko.com/api/v3", "pro": "https://pro-api.coingecko.com/api/v3"}
HEADERS = {"demo": "x-cg-demo-api-key", "pro": "x-cg-pro-api-key"}


class _Price(msgspec.Struct):
    usd: float | None = None
    usd_market_cap: float | None = None
    usd_24h_vol: float | None = None
    usd_24h_change: float | None = None
    last_updated_at: float | None = None


class _Market(msgspec.Struct):
    id: str
    last_updated: datetime | None = None
    circulating_supply: float | None = None
    total_supply: float | None = None
    max_supply: float | None = None


class _Chart(msgspec.Struct):
    prices: list[tuple[float, float | None]] = []
    market_caps: list[tuple[float, float | None]] = []
    total_volumes: list[tuple[float, float | None]] = []


class CoinGecko:
    """Asks for all coins in one call, for supplies in another, for lost hours in one a coin."""

    name = "coingecko"

    def __init__(self, access: Access) -> None:
        self._access = access
        plan = access.settings.coingecko_plan
        self._root = access.root(self.name, ROOTS[plan])
        key = access.keys.get(self.name)
        self._headers = {HEADERS[plan]: key} if key else {}
        self._coins = {asset: known.coingecko for asset, known in access.settings.assets.items() if known.coingecko}

    def skipped(self) -> str:
        return "" if self._coins else "no asset has a coingecko id"

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        away = {asset: self._away(asset, now) for asset in self._coins}
        reply = await self._get(
            "/simple/price",
            ids=",".join(sorted(self._coins.values())),
            vs_currencies="usd",
            include_market_cap="true",
            include_24hr_vol="true",
            include_24hr_change="true",
            include_last_updated_at="true",
        )
        yield batch(reply, observations=self._prices(reply))
        reply = await self._get("/coins/markets", vs_currency="usd", ids=",".join(sorted(self._coins.values())))
        yield batch(reply, observations=self._supplies(reply))
        for asset, days in away.items():
            if days:
                reply = await self._get(f"/coins/{self._coins[asset]}/market_chart", vs_currency="usd", days=str(days))
                yield batch(reply, observations=self._history(asset, reply))

    def _away(self, asset: str, now: datetime) -> int:
        """Days of history to ask for: 0 while the last hourly price is there, else back to the last known one."""
        start = now - timedelta(days=self._access.settings.history_days)
        times = [
            o.observed_at
            for o in self._access.store.observations("price", start, now, asset=asset)
            if o.source == self.name
        ]
        # A killed run may leave a hole with prices on both sides, so every hour of the window is looked at.
        limit = timedelta(seconds=2 * max(self._access.settings.refresh_every, 3600.0))
        edges = [start, *times, now]
        holes = [before for before, after in pairwise(edges) if after - before > limit]
        return math.ceil((now - holes[0]) / timedelta(days=1)) if holes else 0

    async def _get(self, path: str, **params: str) -> Reply:
        return await self._access.client.get(self.name, self._root + path, params=params, headers=self._headers)

    def _prices(self, reply: Reply) -> Iterable[Observation]:
        found = shaped(reply, dict[str, _Price])
        for asset, coin in self._coins.items():
            if (price := found.get(coin)) is None:
                continue
            at = moment(reply, price.last_updated_at) if price.last_updated_at else reply.fetched_at
            yield self._observation(reply, asset, "price", price.usd, at, "USD")
            for metric, value, unit in (
                ("market_cap", price.usd_market_cap, "USD"),
                ("volume_24h", price.usd_24h_vol, "USD"),
                ("change_24h", price.usd_24h_change, "percent"),
            ):
                if value is not None:
                    yield self._observation(reply, asset, metric, value, at, unit)

    def _supplies(self, reply: Reply) -> Iterable[Observation]:
        markets = {market.id: market for market in shaped(reply, list[_Market])}
        for asset, coin in self._coins.items():
            if (market := markets.get(coin)) is None:
                continue
            at = utc(market.last_updated) if market.last_updated else reply.fetched_at
            for metric in ("circulating_supply", "total_supply", "max_supply"):
                if (value := getattr(market, metric)) is not None:
                    yield self._observation(reply, asset, metric, value, at, "", Kind.supply)

    def _history(self, asset: str, reply: Reply) -> Iterable[Observation]:
        chart = shaped(reply, _Chart)
        series = (("price", chart.prices), ("market_cap", chart.market_caps), ("volume_24h", chart.total_volumes))
        for metric, points in series:
            for milliseconds, value in points:
                if value is not None:
                    at = moment(reply, milliseconds / 1000)
                    yield self._observation(reply, asset, metric, value, at, "USD")

    def _observation(
        self,
        reply: Reply,
        asset: str,
        metric: str,
        value: float | None,
        at: datetime,
        unit: str,
        kind: Kind = Kind.price,
    ) -> Observation:
        return Observation(
            source=self.name,
            kind=kind,
            asset=asset,
            metric=metric,
            observed_at=at,
            fetched_at=reply.fetched_at,
            sha256=reply.sha256,
            value=value,
            unit=unit,
        )
