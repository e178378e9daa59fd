"""Collecting from every source, and from sources that misbehave, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import multiprocessing
import random
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import feedparser
import msgspec
import pytest
from oracle_services import (  # type: ignore[import-not-found]
    Answer,
    everything,
    fear_greed,
    feed,
    latest_stats,
    price,
)
from sqlalchemy import make_url

from qaicl.daemon.oracle import OracleDaemon
from qaicl.errors import BadReplyError, OracleStoreError, SettingsError
from qaicl.oracle import database
from qaicl.oracle.collect import Collected, SourceResult, collect
from qaicl.oracle.http import Client
from qaicl.oracle.observations import MARKET, Batch, Headline, SourceHealth, State
from qaicl.oracle.overview import overview
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store, floor
from qaicl.oracle.tables import candles, validators
from qaicl.settings import AssetSettings, OracleSettings, Paths, Settings, Values

HOUR = timedelta(hours=1)
KEYS = {"newsapi": "secret-news-key", "coingecko": "secret-coin-key"}


def refresh(store: Store, services: Any, *only: str, **changes: Any) -> Collected:
    return asyncio.run(collect(store, services.settings(**changes), KEYS, only=only))


def alone(store: Store, services: Any, source: str, **changes: Any) -> SourceResult:
    (result,) = refresh(store, services, source, **changes).sources
    return result


def test_everything_is_collected_once(store: Store, services: Any) -> None:
    first = refresh(store, services)
    assert [(r.source, r.status, r.reason) for r in first.sources] == [
        (name, "ok", "")
        for name in ("coingecko", "gate", "mexc", "qubic", "fear_greed", "gdelt", "newsapi", "rss:paper")
    ]
    now = datetime.now(UTC)
    snapshot = Snapshot.load(store, "qubic", now, settings=services.settings())
    assert snapshot.price.state is State.fresh
    assert set(snapshot.price.sources) == {"coingecko", "gate", "mexc", "qubic"}
    assert len(snapshot.candles) == 48
    assert snapshot.candles.attrs["missing"] == 0
    assert snapshot.fear_greed.value == 40
    assert snapshot.news_tone.value == -1.25
    assert snapshot.circulating_supply.value is not None
    assert {h.title for h in snapshot.headlines} == {"Qubic rises & shines", "Qubic network upgrade goes live"}
    assert {h.summary for h in snapshot.headlines} == {"", "All well"}
    (network,) = snapshot.network
    assert (network.tick, network.tick_duration, network.circulating_supply) == (15102900, 3, 106929085187330)
    assert len(store.observations("fear_greed", now - timedelta(days=5), now, asset=MARKET)) == 2


def test_a_second_run_asks_for_nothing_old_and_stores_no_duplicate(local_store: Store, services: Any) -> None:
    refresh(local_store, services)
    klines = services.calls["/mexc/api/v3/klines"]
    charts = services.calls["/coingecko/coins/qubic-network/market_chart"]
    again = refresh(local_store, services)
    assert again.stored.candles == 0
    assert again.stored.headlines == 0
    assert services.calls["/mexc/api/v3/klines"] == klines
    assert services.calls["/coingecko/coins/qubic-network/market_chart"] == charts


def test_keys_travel_in_headers_only(local_store: Store, services: Any) -> None:
    refresh(local_store, services)
    sent = {path: headers for path, _, headers in services.asked}
    assert sent["/newsapi/v2/everything"]["X-Api-Key"] == "secret-news-key"
    assert sent["/coingecko/simple/price"]["x-cg-demo-api-key"] == "secret-coin-key"
    assert not [query for _, query, _ in services.asked if any("secret" in value for value in query.values())]


def test_candles_are_dated_by_their_close_and_the_running_bar_is_left_out(local_store: Store, services: Any) -> None:
    refresh(local_store, services, "mexc", "gate")
    now = datetime.now(UTC)
    for exchange in ("mexc", "gate"):
        frame = local_store.candles("qubic", now - timedelta(days=3), now + HOUR, "1h", source=exchange)
        assert frame.index[-1] <= now
        last = frame.iloc[-1]
        assert last["close"] == pytest.approx(price(frame.index[-1].timestamp()))
        assert last["open"] == pytest.approx(price((frame.index[-1] - HOUR).timestamp()))
        assert last["volume"] == 1_000_000


def test_a_hole_is_filled_and_a_bar_that_nobody_has_is_asked_for_once(local_store: Store, services: Any) -> None:
    top = floor(datetime.now(UTC), HOUR)
    lacking = top - 30 * HOUR
    services.lacking = {int((lacking - HOUR).timestamp())}
    refresh(local_store, services, "mexc")
    assert local_store.missing("qubic", "1h", "mexc", top - timedelta(days=2), top) == []
    hole = [top - 20 * HOUR, top - 19 * HOUR]
    with local_store.writing() as connection:
        connection.execute(candles.delete().where(candles.c.closed_at.in_(hole)))
    assert alone(local_store, services, "mexc").stored.candles == 2
    calls = services.calls["/mexc/api/v3/klines"]
    assert alone(local_store, services, "mexc").stored.candles == 0
    assert services.calls["/mexc/api/v3/klines"] == calls


def test_a_page_that_was_empty_by_mistake_is_asked_for_again(local_store: Store, services: Any) -> None:
    top = floor(datetime.now(UTC), HOUR)
    services.script("/mexc/api/v3/klines", Answer([]))
    first = alone(local_store, services, "mexc", history_days=30)
    assert (first.status, first.stored.candles) == ("ok", 220)
    assert alone(local_store, services, "mexc", history_days=30).stored.candles == 500
    assert local_store.missing("qubic", "1h", "mexc", top - timedelta(days=30), top) == []


def test_an_exchange_with_short_pages_is_read_to_the_end_in_later_runs(local_store: Store, services: Any) -> None:
    services.page = 20
    for _ in range(3):
        alone(local_store, services, "mexc")
    top = floor(datetime.now(UTC), HOUR)
    assert local_store.missing("qubic", "1h", "mexc", top - timedelta(days=2), top) == []


def test_an_unchanged_feed_costs_a_304(local_store: Store, services: Any) -> None:
    assert alone(local_store, services, "rss:paper").stored.headlines == 1
    second = alone(local_store, services, "rss:paper")
    assert (second.status, second.stored.headlines) == ("ok", 0)
    assert services.asked[-1][2]["If-None-Match"] == '"1"'
    services.etag = '"2"'
    assert alone(local_store, services, "rss:paper").status == "ok"


def test_only_addresses_that_are_asked_again_are_remembered(local_store: Store, services: Any) -> None:
    services.always("/fear_greed/fng/", Answer(fear_greed({"limit": "2"}), headers={"ETag": '"7"'}))
    refresh(local_store, services, "fear_greed", "rss:paper")
    with local_store.reading() as connection:
        assert [row.url for row in connection.execute(validators.select())] == [services.url + "/feed.xml"]


def test_what_cannot_be_believed_is_in_quarantine_and_nowhere_else(local_store: Store, services: Any) -> None:
    services.always("/coingecko/simple/price", Answer({"qubic-network": {"usd": -1.0, "usd_market_cap": 5.0}}))
    result = alone(local_store, services, "coingecko")
    assert result.status == "ok"
    assert result.stored.rejected == 1
    reasons = [(q.source, q.reason) for q in local_store.quarantined()]
    assert reasons == [("coingecko", "price is -1")]
    refresh(local_store, services, "rss:paper", "newsapi")
    assert {q.reason for q in local_store.quarantined()} >= {"no date", "no title", "no title or date"}


@pytest.mark.parametrize(
    ("source", "path", "answer"),
    [
        ("coingecko", "/coingecko/simple/price", Answer(b"<html>maintenance</html>")),
        ("coingecko", "/coingecko/simple/price", Answer({"qubic-network": {"usd": "cheap"}})),
        ("coingecko", "/coingecko/simple/price", Answer({"status": {"error_code": 10002}}, 401)),
        ("qubic", "/qubic/v1/latest-stats", Answer({"data": {"timestamp": "99999999999999999999"}})),
        ("qubic", "/qubic/v1/latest-stats", Answer({"data": None})),
        ("qubic", "/qubic/live/v1/tick-info", Answer({"code": 5, "message": "Not Found"}, 404)),
        ("fear_greed", "/fear_greed/fng/", Answer({"data": [{"value": "high"}]})),
        ("gdelt", "/gdelt/api/v2/doc/doc", Answer(b"Your query was too short or too long.")),
        ("gdelt", "/gdelt/api/v2/doc/doc", Answer({"timeline": [{"data": [{"date": "soon", "value": 1}]}]})),
        ("newsapi", "/newsapi/v2/everything", Answer({"status": "error", "code": "apiKeyInvalid"}, 401)),
        ("newsapi", "/newsapi/v2/everything", Answer({"status": "error", "code": "maximumResultsReached"})),
        ("rss:paper", "/feed.xml", Answer(b"\x00\xff garbage")),
        ("mexc", "/mexc/api/v3/exchangeInfo", Answer({"symbols": []})),
        ("mexc", "/mexc/api/v3/klines", Answer({"code": -1128, "msg": "Combination invalid"})),
        ("mexc", "/mexc/api/v3/klines", Answer([["garbage"], None, 7])),
        ("mexc", "/mexc/api/v3/klines", Answer(b"not json")),
        ("gate", "/gate/api/v4/spot/tickers", Answer({"label": "INVALID_CURRENCY", "message": "x"}, 400)),
        ("gate", "/gate/api/v4/spot/currency_pairs", Answer([{"id": None}])),
        ("mexc", "/mexc/api/v3/klines", Answer([[10**30, "1", "1", "1", "1", "1", 1, "1"]])),
    ],
)
def test_garbage_from_one_source_fails_that_source_alone(
    local_store: Store, services: Any, source: str, path: str, answer: Answer
) -> None:
    services.always(path, answer)
    other = "qubic" if source == "fear_greed" else "fear_greed"
    collected = refresh(local_store, services, source, other)
    assert [(r.source, r.status) for r in collected.failed] == [(source, "failed")]
    (failed,) = collected.failed
    assert failed.reason
    assert "secret" not in failed.reason
    assert local_store.health()[source].failures == 1
    if source == "qubic" and "tick" in path:
        assert failed.stored.network == 1, "the statistics are kept"


def test_a_reply_over_the_limit_is_cut_off(local_store: Store, services: Any) -> None:
    services.always("/feed.xml", Answer(b"x" * 200_000))
    assert "more than 100000 bytes" in alone(local_store, services, "rss:paper", max_reply_bytes=100_000).reason


def test_a_slow_source_is_given_up_and_the_others_come_in_time(local_store: Store, services: Any) -> None:
    services.always("/feed.xml", Answer(b"", delay=8))
    began = time.monotonic()
    collected = refresh(local_store, services, "rss:paper", "qubic", "fear_greed", request_timeout=2.0)
    assert time.monotonic() - began < 7
    assert [r.source for r in collected.failed] == ["rss:paper"]
    assert "no whole reply within 2 s" in collected.failed[0].reason


def test_a_server_error_is_tried_again(local_store: Store, services: Any) -> None:
    services.script("/feed.xml", Answer(b"", 503), Answer(b"", 500))
    assert alone(local_store, services, "rss:paper").status == "ok"
    assert services.calls["/feed.xml"] == 3


def test_a_short_retry_after_is_waited_for(local_store: Store, services: Any) -> None:
    services.script("/feed.xml", Answer(b"", 429, {"Retry-After": "1"}))
    began = time.monotonic()
    assert alone(local_store, services, "rss:paper").status == "ok"
    assert time.monotonic() - began >= 1


def test_a_retry_after_in_the_past_is_tried_again_and_opens_the_circuit_in_the_end(
    local_store: Store, services: Any
) -> None:
    past = Answer(b"", 429, {"Retry-After": "Sat, 10 Jan 2026 12:00:00 GMT"})
    services.script("/feed.xml", past)
    assert alone(local_store, services, "rss:paper").status == "ok"
    services.always("/feed.xml", past)
    assert [alone(local_store, services, "rss:paper").status for _ in range(4)] == ["failed"] * 3 + ["skipped"]


def test_a_long_retry_after_is_obeyed_across_runs(local_store: Store, services: Any) -> None:
    services.always("/feed.xml", Answer(b"slow down", 429, {"Retry-After": "3600"}))
    assert alone(local_store, services, "rss:paper").status == "failed"
    calls = services.calls["/feed.xml"]
    result = alone(local_store, services, "rss:paper")
    assert result.status == "skipped"
    assert "left alone until" in result.reason
    assert services.calls["/feed.xml"] == calls
    blocked = local_store.health()["rss:paper"].blocked_until
    assert blocked is not None
    assert 3500 < (blocked - datetime.now(UTC)).total_seconds() <= 3600


def test_a_source_that_was_left_alone_while_the_clock_was_ahead_is_asked(local_store: Store, services: Any) -> None:
    ahead = SourceHealth(source="fear_greed", failures=3, blocked_until=datetime.now(UTC) + timedelta(days=300))
    local_store.set_health(ahead)
    assert alone(local_store, services, "fear_greed").status == "ok"


def test_the_circuit_opens_after_three_failures_and_closes_after_a_success(local_store: Store, services: Any) -> None:
    services.always("/fear_greed/fng/", Answer(b"nothing"))
    assert [alone(local_store, services, "fear_greed").status for _ in range(4)] == ["failed"] * 3 + ["skipped"]
    health = local_store.health()["fear_greed"]
    assert health.failures == 3
    local_store.set_health(msgspec.structs.replace(health, blocked_until=datetime.now(UTC) - HOUR))
    services.always("/fear_greed/fng/", Answer({"data": []}))
    assert alone(local_store, services, "fear_greed").status == "ok"
    assert local_store.health()["fear_greed"].failures == 0


def test_the_daily_quota_holds_across_runs_and_nothing_is_sent_beyond_it(local_store: Store, services: Any) -> None:
    limit = {"calls_a_day": {"newsapi": 1}}
    assert alone(local_store, services, "newsapi", **limit).status == "ok"
    assert "used up" in alone(local_store, services, "newsapi", **limit).reason
    assert services.calls["/newsapi/v2/everything"] == 1


def test_calls_keep_their_distance(local_store: Store, services: Any) -> None:
    began = time.monotonic()
    alone(local_store, services, "qubic", calls_a_minute={"qubic": 100})
    assert time.monotonic() - began >= 0.6, "two calls at 100 a minute"


def test_a_redirect_never_carries_the_key_away(local_store: Store, services: Any) -> None:
    services.always("/newsapi/v2/everything", Answer(b"", 302, {"Location": f"{services.url}/feed.xml"}))
    assert alone(local_store, services, "newsapi").status == "failed"
    assert services.calls["/feed.xml"] == 0


def test_every_source_down_leaves_the_stored_figures_with_ages(local_store: Store, services: Any) -> None:
    refresh(local_store, services)
    settings = services.settings()
    services.close()
    collected = asyncio.run(collect(local_store, settings, KEYS))
    assert {r.status for r in collected.sources} == {"failed"}
    snapshot = Snapshot.load(local_store, "qubic", datetime.now(UTC) + timedelta(minutes=30), settings=settings)
    assert snapshot.price.value is not None
    assert snapshot.price.age is not None
    assert snapshot.price.age >= 1800
    assert snapshot.state is State.degraded
    assert {"source:mexc", "source:coingecko"} <= {flag.subject for flag in snapshot.flags}
    late = Snapshot.load(local_store, "qubic", datetime.now(UTC) + timedelta(hours=5), settings=settings)
    assert late.state is State.stale


def test_without_a_key_newsapi_is_skipped_and_said(local_store: Store, services: Any) -> None:
    (result,) = asyncio.run(collect(local_store, services.settings(), {}, only=("newsapi",))).sources
    assert (result.status, result.reason) == ("skipped", "no key: set NEWSAPI_KEY")


def test_names_that_do_not_exist_are_refused(local_store: Store, services: Any) -> None:
    with pytest.raises(SettingsError, match="no source 'bloomberg'"):
        refresh(local_store, services, "bloomberg")
    with pytest.raises(SettingsError, match="disabled_sources"):
        refresh(local_store, services, disabled_sources=("bloomberg",))
    nowhere = {"qubic": AssetSettings(markets={"nosuch": "QUBIC/USDT"})}
    with pytest.raises(SettingsError, match="'nosuch'"):
        refresh(local_store, services, assets=nowhere)


def test_the_overview_tells_how_each_source_does(local_store: Store, services: Any) -> None:
    services.always("/feed.xml", Answer(b"", 404))
    refresh(local_store, services)
    settings = services.settings(disabled_sources=("gdelt",))
    states = {one.source: one for one in overview(local_store, settings, {})}
    assert (states["mexc"].state, states["rss:paper"].state) == ("ok", "failing")
    assert (states["newsapi"].state, states["gdelt"].state) == ("skipped", "disabled")
    assert states["coingecko"].calls_today == 3


def test_a_database_that_fails_ends_the_refresh(local_store: Store, services: Any) -> None:
    class Full(Store):
        def add(self, batch: Batch, *, now: datetime) -> Any:
            raise OracleStoreError("the oracle's database failed", why="disk is full")

    full = Full(local_store._engine)
    with pytest.raises(OracleStoreError):
        refresh(full, services, "qubic")
    assert local_store.health().get("qubic", SourceHealth(source="qubic")).last_success is None


def article(**changes: Any) -> Answer:
    (whole, *_) = everything({})["articles"]
    return Answer({"status": "ok", "articles": [{**whole, **changes}]})


def stats(**changes: Any) -> Answer:
    whole = latest_stats({})
    return Answer({"data": {**whole["data"], **changes}})


UNSTORABLE = {
    "a wait beyond all calendars": ("rss:paper", "/feed.xml", Answer(b"", 429, {"Retry-After": "9" * 400})),
    "a wait in other digits": ("rss:paper", "/feed.xml", Answer(b"", 429, {"Retry-After": "\u00b2"})),
    "a time without a zone": ("newsapi", "/newsapi/v2/everything", article(publishedAt="2026-11-25T10:00:00")),
    "an update without a zone": (
        "coingecko",
        "/coingecko/coins/markets",
        Answer([{"id": "qubic-network", "last_updated": "2026-01-01T00:00:00", "total_supply": 1}]),
    ),
    "an integer too large": ("qubic", "/qubic/v1/latest-stats", stats(circulatingSupply="9" * 20)),
    "an epoch too large": (
        "qubic",
        "/qubic/live/v1/tick-info",
        Answer({"tickInfo": {"tick": 1, "duration": 1, "epoch": 5_000_000_000}}),
    ),
    "an outlet too long": ("newsapi", "/newsapi/v2/everything", article(source={"name": "x" * 300})),
    "an outlet with a null": ("newsapi", "/newsapi/v2/everything", article(source={"name": "x\0y"})),
    "an address with a null": ("newsapi", "/newsapi/v2/everything", article(url="https://x\0y")),
    "a feed's name too long": ("rss:paper", "/feed.xml", Answer(feed().replace(b"The Paper", b"Paper" * 60))),
    "a word with a null": (
        "fear_greed",
        "/fear_greed/fng/",
        Answer({"data": [{"value": "40", "value_classification": "a\0b", "timestamp": "1700000000"}]}),
    ),
    "an error with a null": (
        "newsapi",
        "/newsapi/v2/everything",
        Answer({"status": "error", "code": "a\0", "message": "\x1b[2J" * 1000}),
    ),
    "the year 0": ("rss:paper", "/feed.xml", Answer(feed().replace(b"<item>", b"<item><pubDate>0000-01-01</pubDate>"))),
}


@pytest.mark.parametrize("what", UNSTORABLE)
def test_what_a_database_cannot_hold_stops_no_other_source(store: Store, services: Any, what: str) -> None:
    source, path, answer = UNSTORABLE[what]
    services.always(path, answer)
    other = "qubic" if source == "fear_greed" else "fear_greed"
    results = {one.source: one for one in refresh(store, services, source, other).sources}
    assert results[other].status == "ok"
    assert results[source].reason.isprintable()
    assert len(results[source].reason) <= 500
    blocked = store.health()[source].blocked_until
    assert blocked is None or blocked <= datetime.now(UTC) + timedelta(days=1)


def test_a_value_that_the_database_refuses_is_the_sources_failure(store: Store) -> None:
    headline = Headline(
        source="paper",
        outlet="paper",
        title="naive",
        published_at=datetime(2026, 1, 1),
        fetched_at=datetime.now(UTC),
        sha256="0",
    )
    with pytest.raises(BadReplyError, match="cannot be stored"):
        store.add(Batch(source="paper", headlines=(headline,)), now=datetime.now(UTC))


@pytest.mark.parametrize("packed", ["gzip, gzip", "br", "zstd"])
def test_a_reply_that_may_unpack_without_end_is_not_unpacked(local_store: Store, services: Any, packed: str) -> None:
    once = gzip.compress(bytes(50_000_000))
    services.always("/feed.xml", Answer(gzip.compress(once), headers={"Content-Encoding": packed}))
    assert f"Content-Encoding: {packed}" in alone(local_store, services, "rss:paper").reason
    for body, name in ((gzip.compress(feed()), "gzip"), (feed(), "UTF-8"), (feed(), "identity")):
        services.always("/feed.xml", Answer(body, headers={"Content-Encoding": name}))
        assert alone(local_store, services, "rss:paper").status == "ok"


def test_what_is_asked_for_again_is_not_forgotten_before(local_store: Store, services: Any) -> None:
    refresh(local_store, services, "mexc", retention_days=1, history_days=2)
    asked = services.calls["/mexc/api/v3/klines"]
    assert refresh(local_store, services, "mexc", retention_days=1, history_days=2).pruned == 0
    assert services.calls["/mexc/api/v3/klines"] == asked


def test_of_a_flood_only_the_newest_are_taken(local_store: Store, services: Any) -> None:
    one = feed().decode().partition("<item>")[2].partition("</item>")[0]
    items = "".join(f"<item>{one.replace('Qubic', f'Story {number}')}</item>" for number in range(600))
    services.always("/feed.xml", Answer(f"<rss version='2.0'><channel>{items}</channel></rss>".encode()))
    assert alone(local_store, services, "rss:paper").stored.headlines == 500


def test_a_large_feed_is_read_beside_the_others(
    local_store: Store, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in = []

    def parse(body: bytes) -> Any:
        read_in.append(threading.current_thread())
        return parsed(body)

    parsed = feedparser.parse
    monkeypatch.setattr(feedparser, "parse", parse)
    assert alone(local_store, services, "rss:paper").status == "ok"
    assert read_in != [threading.main_thread()]


def test_a_database_that_fails_blames_no_source(local_store: Store, services: Any) -> None:
    class Full(Store):
        def add(self, batch: Batch, *, now: datetime) -> Any:
            raise OracleStoreError("the oracle's database failed", why="disk is full")

    services.always("/feed.xml", Answer(feed(), delay=1.0))

    async def refreshed() -> None:
        with pytest.raises(OracleStoreError):
            await collect(Full(local_store._engine), services.settings(), KEYS, only=("qubic", "rss:paper"))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(1.5)

    asyncio.run(refreshed())
    assert local_store.health() == {}


def test_a_clock_that_is_set_back_does_not_hold_up_a_source(local_store: Store, services: Any) -> None:
    clock = [datetime.now(UTC)]
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def twice() -> None:
        settings = services.settings(calls_a_minute={"paper": 30})
        async with Client(local_store, settings, clock=lambda: clock[0], sleep=sleep) as client:
            await client.get("paper", services.url + "/feed.xml")
            clock[0] -= timedelta(days=1)
            await client.get("paper", services.url + "/feed.xml")

    asyncio.run(twice())
    assert slept == [2.0]


# --- killed at any moment ------------------------------------------------------------------------


DAYS = 30
"""So much that an exchange needs two pages."""


def collecting(path: Path, settings: OracleSettings) -> None:
    with Store(database.connect(make_url(f"sqlite:///{path}"))) as store:
        asyncio.run(collect(store, settings, KEYS))


def refreshing(path: Path, settings: OracleSettings) -> None:
    url = msgspec.structs.replace(settings, database_url=f"sqlite:///{path}", refresh_every=0.05)
    OracleDaemon(Settings(Values(oracle=url), Paths(path.parent, path.parent, path.parent), "default")).run()


@pytest.mark.parametrize("work", [collecting, refreshing])
def test_killed_at_any_moment_nothing_is_doubled_and_the_next_run_fills_every_hole(
    tmp_path: Path, services: Any, work: Callable[[Path, OracleSettings], None]
) -> None:
    importlib.import_module("ccxt.async_support")  # here, so that each killed process begins to ask at once
    path = tmp_path / "killed.sqlite"
    settings = services.settings(history_days=DAYS, calls_a_day={"coingecko": 10_000, "newsapi": 10_000})
    chance = random.Random(20260110)
    services.delay = 0.01
    processes = multiprocessing.get_context("fork")
    for _ in range(7):
        before = sum(services.calls.values())
        process = processes.Process(target=work, args=(path, settings))
        process.start()
        wanted = before + chance.randint(0, 13)
        while sum(services.calls.values()) < wanted and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.join(10)
    with Store(database.connect(make_url(f"sqlite:///{path}"))) as store:
        final = asyncio.run(collect(store, settings, KEYS))
        assert {result.status for result in final.sources} == {"ok"}
        now = datetime.now(UTC)
        end = floor(now, HOUR)
        for exchange in ("mexc", "gate"):
            assert store.missing("qubic", "1h", exchange, end - timedelta(days=DAYS), end) == []
            frame = store.candles("qubic", end - timedelta(days=DAYS), end, "1h", source=exchange)
            assert len(frame) == 24 * DAYS
            assert not frame.index.has_duplicates
        prices = [o for o in store.observations("price", now - timedelta(days=DAYS), now) if o.source == "coingecko"]
        times = sorted(o.observed_at for o in prices)
        assert max(after - before for before, after in pairwise(times)) <= 2 * HOUR
        titles = [h.title for h in store.headlines(now - timedelta(days=DAYS), now)]
        assert sorted(titles) == ["Qubic network upgrade goes live", "Qubic rises & shines"]


def test_two_processes_at_once_store_everything_once(tmp_path: Path, services: Any, migrated_sqlite: Path) -> None:
    importlib.import_module("ccxt.async_support")
    path = Path(shutil.copy(migrated_sqlite, tmp_path / "shared.sqlite"))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=collecting, args=(path, services.settings())) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    with Store(database.connect(make_url(f"sqlite:///{path}"))) as store:
        snapshot = Snapshot.load(store, "qubic", settings=services.settings())
        assert len(snapshot.candles) == 48
        assert len(snapshot.headlines) == 2
        assert {health.failures for health in snapshot.sources} == {0}
