"""Every service that the oracle asks, on one local HTTP server: its documented paths, shapes, errors and quirks.

Prices follow a fixed formula of time, so that two runs see one market.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from qaicl.settings import AssetSettings, OracleSettings

HOUR = 3600
Query = dict[str, str]


def price(seconds: float) -> float:
    return 0.000002 * (1 + 0.1 * math.sin(seconds / 40_000))


class Answer:
    """One reply: a JSON value or bytes, status and headers, sent slowly where asked."""

    def __init__(self, body: Any, status: int = 200, headers: dict[str, str] | None = None, delay: float = 0.0) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = headers or {}
        self.delay = delay


class LocalServer:
    """An HTTP server on the loopback interface, whatever becomes of its clients."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that was killed is no news."""

        self._server = Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Services(LocalServer):
    """The server. ``script(path, ...)`` replaces the next replies of a path, ``always`` all of them."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.asked: list[tuple[str, Query, dict[str, str]]] = []
        self.etag = '"1"'
        self.delay = 0.0
        self.lacking: set[int] = set()
        """Opening times of bars that no exchange has."""
        self.page = 1000
        self._scripts: dict[str, list[Answer]] = {}
        self._always: dict[str, Answer] = {}
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                services._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)

    def script(self, path: str, *answers: Answer) -> None:
        self._scripts[path] = list(answers)

    def always(self, path: str, answer: Answer) -> None:
        self._always[path] = answer

    def settings(self, **changes: Any) -> OracleSettings:
        """Settings that point every source here."""
        fixed: dict[str, Any] = {
            "assets": {
                "qubic": AssetSettings(
                    coingecko="qubic-network",
                    markets={"mexc": "QUBIC/USDT", "gate": "QUBIC/USDT"},
                    network="qubic",
                )
            },
            "endpoints": {
                name: f"{self.url}/{name}"
                for name in ("coingecko", "mexc", "gate", "qubic", "fear_greed", "gdelt", "newsapi")
            },
            "feeds": {"paper": f"{self.url}/feed.xml"},
            "history_days": 2,
            "request_timeout": 20.0,
            "calls_a_minute": dict.fromkeys(("coingecko", "gdelt", "newsapi", "fear_greed", "qubic"), 60_000),
        }
        return OracleSettings(**(fixed | changes))

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.calls[parts.path] += 1
        self.asked.append((parts.path, query, dict(request.headers)))
        answer = self._choose(parts.path, query, request)
        time.sleep(answer.delay or self.delay)
        try:
            request.send_response(answer.status)
            for name, value in answer.headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(answer.body)))
            request.end_headers()
            request.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    def _choose(self, path: str, query: Query, request: BaseHTTPRequestHandler) -> Answer:
        if self._scripts.get(path):
            return self._scripts[path].pop(0)
        if path in self._always:
            return self._always[path]
        if path == "/feed.xml":
            if request.headers.get("If-None-Match") == self.etag:
                return Answer(b"", 304)
            return Answer(feed(), headers={"ETag": self.etag})
        routes: dict[str, Callable[[Query], Any]] = {
            "/coingecko/simple/price": simple_price,
            "/coingecko/coins/markets": coin_markets,
            "/coingecko/coins/qubic-network/market_chart": market_chart,
            "/qubic/v1/latest-stats": latest_stats,
            "/qubic/live/v1/tick-info": tick_info,
            "/fear_greed/fng/": fear_greed,
            "/gdelt/api/v2/doc/doc": timeline,
            "/newsapi/v2/everything": everything,
            "/mexc/api/v3/exchangeInfo": mexc_markets,
            "/mexc/api/v3/klines": self._mexc_candles,
            "/mexc/api/v3/ticker/24hr": mexc_ticker,
            "/gate/api/v4/margin/currency_pairs": lambda query: [],
            "/gate/api/v4/spot/currency_pairs": gate_markets,
            "/gate/api/v4/spot/candlesticks": self._gate_candles,
            "/gate/api/v4/spot/tickers": gate_ticker,
        }
        if path not in routes:
            return Answer({"error": "no such path"}, 404)
        return Answer(routes[path](query))

    def _opens(self, first: int, last: int) -> list[int]:
        start = -(-first // HOUR) * HOUR
        return [at for at in range(start, last + 1, HOUR) if at not in self.lacking][-self.page :]

    def _mexc_candles(self, query: Query) -> Any:
        first, last = int(query["startTime"]) // 1000, int(query["endTime"]) // 1000
        return [
            [at * 1000, *bar_texts(at), "1000000", (at + HOUR) * 1000, "2.0"]
            for at in self._opens(first, min(last, int(time.time())))
        ]

    def _gate_candles(self, query: Query) -> Any:
        rows = []
        for at in self._opens(int(query["from"]), min(int(query["to"]), int(time.time()))):
            opened, high, low, close = bar_texts(at)
            rows.append([str(at), "2.0", close, high, low, opened, "1000000", "true"])
        return rows


def bar_texts(at: int) -> list[str]:
    """Open, high, low, close, as exchanges write them."""
    opened, close = price(at), price(at + HOUR)
    return [f"{x:.12f}" for x in (opened, max(opened, close) * 1.001, min(opened, close) * 0.999, close)]


def simple_price(query: Query) -> Any:
    now = time.time()
    one = {
        "usd": price(now),
        "usd_market_cap": price(now) * 1e14,
        "usd_24h_vol": 1.5e6,
        "usd_24h_change": -2.5,
        "last_updated_at": int(now) - 20,
    }
    return dict.fromkeys(query["ids"].split(","), one)


def coin_markets(query: Query) -> Any:
    return [
        {
            "id": "qubic-network",
            "last_updated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "circulating_supply": 1.2e14,
            "total_supply": 1.2e14,
            "max_supply": None,
        }
    ]


def market_chart(query: Query) -> Any:
    now = int(time.time())
    start = -(-(now - int(query["days"]) * 86_400) // HOUR) * HOUR
    times = range(start, now, HOUR)
    return {
        "prices": [[at * 1000, price(at)] for at in times],
        "market_caps": [[at * 1000, price(at) * 1e14] for at in times],
        "total_volumes": [[at * 1000, 1.5e6] for at in times],
    }


def latest_stats(query: Query) -> Any:
    now = time.time()
    return {
        "data": {
            "timestamp": str(int(now) - 30),
            "circulatingSupply": "106929085187330",
            "activeAddresses": 476802,
            "price": price(now),
            "marketCap": "202951409",
            "epoch": 119,
            "currentTick": 15102892,
            "ticksInCurrentEpoch": 72892,
            "emptyTicksInCurrentEpoch": 1019,
            "epochTickQuality": 98.602036,
            "burnedQus": "12070914812670",
        }
    }


def tick_info(query: Query) -> Any:
    return {"tickInfo": {"tick": 15102900, "duration": 3, "epoch": 119, "initialTick": 15030000}}


def fear_greed(query: Query) -> Any:
    today = int(time.time()) // 86_400 * 86_400
    return {
        "name": "Fear and Greed Index",
        "data": [
            {"value": str(40 + back), "value_classification": "Fear", "timestamp": str(today - back * 86_400)}
            for back in range(int(query["limit"]))
        ],
        "metadata": {"error": None},
    }


def timeline(query: Query) -> Any:
    hour = int(time.time()) // HOUR * HOUR
    dates = [datetime.fromtimestamp(hour - back * HOUR, UTC).strftime("%Y%m%dT%H%M%SZ") for back in range(5)]
    return {"timeline": [{"series": "Average Tone", "data": [{"date": date, "value": -1.25} for date in dates]}]}


def everything(query: Query) -> Any:
    at = datetime.fromtimestamp(time.time() - 90_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    whole = {
        "source": {"id": None, "name": "Paper"},
        "author": None,
        "title": "Qubic <b>rises</b> &amp; shines",
        "description": None,
        "url": "https://paper.example/1",
        "urlToImage": None,
        "publishedAt": at,
        "content": None,
    }
    removed = {**whole, "title": "[Removed]", "url": "https://removed.example"}
    empty = dict.fromkeys(whole)
    return {"status": "ok", "totalResults": 3, "articles": [whole, removed, empty]}


def feed() -> bytes:
    at = datetime.fromtimestamp(time.time() - 7200, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    return f"""<?xml version="1.0"?><rss version="2.0"><channel><title>The Paper</title>
<item><title>Qubic network upgrade goes live</title><link>https://paper.example/2</link><pubDate>{at}</pubDate>
<description>&lt;p&gt;All &lt;script&gt;alert(1)&lt;/script&gt;well&lt;/p&gt;</description></item>
<item><title>No date here</title><link>https://paper.example/3</link></item>
</channel></rss>""".encode()


def mexc_markets(query: Query) -> Any:
    return {
        "symbols": [
            {
                "symbol": "QUBICUSDT",
                "status": "1",
                "baseAsset": "QUBIC",
                "quoteAsset": "USDT",
                "baseAssetPrecision": 2,
                "quoteAssetPrecision": 12,
                "isSpotTradingAllowed": True,
                "isMarginTradingAllowed": False,
                "permissions": ["SPOT"],
            }
        ]
    }


def mexc_ticker(query: Query) -> Any:
    now = time.time()
    last = f"{price(now):.12f}"
    return {"symbol": "QUBICUSDT", "lastPrice": last, "openPrice": last, "closeTime": int(now * 1000)}


def gate_markets(query: Query) -> Any:
    return [
        {
            "id": "QUBIC_USDT",
            "base": "QUBIC",
            "quote": "USDT",
            "fee": "0.2",
            "amount_precision": 2,
            "precision": 12,
            "trade_status": "tradable",
            "buy_start": 0,
        }
    ]


def gate_ticker(query: Query) -> Any:
    return [
        {"currency_pair": "QUBIC_USDT", "last": f"{price(time.time()):.12f}", "base_volume": "5", "quote_volume": "5"}
    ]
