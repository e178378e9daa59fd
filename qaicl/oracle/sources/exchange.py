"""Any exchange that ccxt knows: candles and the last price. ccxt speaks each exchange's dialect, our client carries it.

So an exchange is held to the same quotas, size and time limits as every other source, and each record names the
digest of the reply that it was read from.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from qaicl.errors import BadReplyError, SettingsError
from qaicl.oracle.http import Reply, bad_reply
from qaicl.oracle.observations import INTERVALS, Batch, Candle, Gap, Interval, Kind, Observation
from qaicl.oracle.sources.protocol import Access, batch
from qaicl.oracle.store import floor

PAGE = 500
"""Bars a call: what the least generous of the usual exchanges gives."""

SETTLING = 2
"""The newest bars, which an exchange may publish late."""


class Exchange:
    """One exchange's markets in our assets."""

    def __init__(self, access: Access, name: str) -> None:
        self.name = name
        self._access = access
        self._markets = {a: s.markets[name] for a, s in access.settings.assets.items() if name in s.markets}
        self._last: Reply | None = None

    def skipped(self) -> str:
        return "" if self._markets else "no asset has a market there"

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        # Seconds of importing on a busy machine would let the other sources' requests run into their time limits.
        ccxt = await asyncio.to_thread(importlib.import_module, "ccxt.async_support")
        exchange = self._connect(ccxt)
        try:
            await self._load_markets(exchange)
            for asset, symbol in self._markets.items():
                if symbol not in exchange.markets:
                    raise BadReplyError(
                        f"{self.name} has no market {symbol}",
                        source=self.name,
                        fix="mend oracle.assets in the settings",
                    )
                async for one in self._candles(exchange, asset, symbol, now):
                    yield one
                ticker = await exchange.fetch_ticker(symbol)
                yield batch(self._reply(), observations=[self._price(ticker, asset, symbol)])
        except ccxt.BaseError as error:
            raise BadReplyError(
                f"{self.name} refused", source=self.name, why=f"{type(error).__name__}: {str(error)[:200]}"
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            # ccxt trusts the shape of a reply; garbage surfaces as one of these.
            raise bad_reply(self._reply(), f"ccxt could not read it ({type(error).__name__}: {error})") from error
        finally:
            await exchange.close()

    def _connect(self, ccxt: Any) -> Any:
        if self.name not in ccxt.exchanges:
            raise SettingsError(
                f"'{self.name}' is not an exchange that ccxt knows", fix="mend the markets in oracle.assets"
            )
        ours = self

        async def fetch(
            self: Any, url: str, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None
        ) -> Any:
            if method != "GET" or body is not None:
                raise BadReplyError(f"ccxt wants to {method} to {ours.name}", source=ours.name)
            reply = await ours._access.client.get(ours.name, ours._rooted(url))
            ours._last = reply
            text = reply.body.decode("utf-8", "replace")
            document = self.parse_json(text)
            self.handle_errors(200, "OK", url, method, {}, text, document, headers, body)
            if document is None:
                raise bad_reply(reply, "no JSON")
            return document

        kind = getattr(ccxt, self.name)
        return type(kind.__name__, (kind,), {"fetch": fetch})({"enableRateLimit": False})

    def _rooted(self, url: str) -> str:
        root = self._access.settings.endpoints.get(self.name)
        if root is None:
            return url
        _, _, rest = url.partition("://")
        _, slash, path = rest.partition("/")
        return root.rstrip("/") + slash + path

    async def _load_markets(self, exchange: Any) -> None:
        """Spot markets only, where the exchange lists them apart: derivatives are many and not asked about."""
        spot = getattr(exchange, "fetch_spot_markets", None) or exchange.fetch_markets
        exchange.set_markets(await spot())

    def _reply(self) -> Reply:
        assert self._last is not None
        return self._last

    async def _candles(self, exchange: Any, asset: str, symbol: str, now: datetime) -> AsyncIterator[Batch]:
        interval: Interval = self._access.settings.candle_interval
        step = INTERVALS[interval]
        end = floor(now, step)
        start = end - timedelta(days=self._access.settings.history_days)
        for first, last in self._access.store.missing(asset, interval, self.name, start, end):
            opens = first - step
            while opens < last:
                count = min(PAGE, int((last - opens) / step))
                since = int(opens.timestamp() * 1000)
                until = int((opens + count * step).timestamp() * 1000) - 1
                rows = await exchange.fetch_ohlcv(symbol, interval, since=since, limit=count, params={"until": until})
                reply = self._reply()
                asked = [opens + (bar + 1) * step for bar in range(count)]
                if not rows and len(asked) > SETTLING and asked[-1] == end:
                    raise bad_reply(reply, f"no bars of {symbol}")
                candles = [c for c in self._bars(rows, reply, asset, symbol, interval) if c.closed_at in set(asked)]
                yield batch(reply, candles=candles, gaps=self._gaps(reply, asset, interval, asked, candles))
                opens += count * step

    def _gaps(
        self, reply: Reply, asset: str, interval: Interval, asked: list[datetime], candles: list[Candle]
    ) -> list[Gap]:
        """Bars that the exchange does not have: those lacking between others that it gave.

        Those before the first and after the last may have been cut off by its own page size, and an empty list may be a
        mistake of a moment: they are asked for again, a call an hour.
        """
        got = {candle.closed_at for candle in candles}
        lacking = [bar for bar in asked if got and min(got) < bar < max(got) and bar not in got]
        return [Gap(source=self.name, asset=asset, interval=interval, closed_at=bar) for bar in lacking]

    def _bars(self, rows: Any, reply: Reply, asset: str, symbol: str, interval: Interval) -> Iterable[Candle]:
        """ccxt dates a bar by its opening; ours close."""
        for row in rows:
            opened, *figures = row
            prices = [float("nan") if figure is None else float(figure) for figure in figures]
            yield Candle(
                source=self.name,
                asset=asset,
                interval=interval,
                closed_at=datetime.fromtimestamp(opened / 1000, UTC) + INTERVALS[interval],
                open=prices[0],
                high=prices[1],
                low=prices[2],
                close=prices[3],
                volume=prices[4],
                quote=symbol.partition("/")[2],
                fetched_at=reply.fetched_at,
                sha256=reply.sha256,
            )

    def _price(self, ticker: Any, asset: str, symbol: str) -> Observation:
        reply = self._reply()
        # Some exchanges date their ticker, some do not.
        milliseconds = ticker.get("timestamp")
        last = ticker.get("last")
        return Observation(
            source=self.name,
            kind=Kind.price,
            asset=asset,
            metric="price",
            observed_at=datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else reply.fetched_at,
            fetched_at=reply.fetched_at,
            sha256=reply.sha256,
            value=None if last is None else float(last),
            unit=symbol.partition("/")[2],
        )
