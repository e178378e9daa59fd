"""The observations that ship with the project, as a store that everything can be run on without a network.

What is real in them and what was written for the project stands in ``recorded/README.md``; the sources' names say it
in every report: ``recorded candles``, ``recorded reply``, ``written example``.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib import resources

import msgspec

from qaicl.oracle.observations import (
    MARKET,
    Batch,
    Candle,
    Headline,
    HeadlineKind,
    Kind,
    NetworkStats,
    Observation,
    digest,
)
from qaicl.oracle.store import Store

DEFAULT_ASSET = "ethereum"
"""The recorded asset with the longest history."""
CANDLES = "recorded candles"
REPLY = "recorded reply"
WRITTEN = "written example"
RECORDED_AT = datetime(2024, 7, 29, 13, 30, 58, tzinfo=UTC)
"""Counts as the time of fetching: the latest moment in the files."""


class _Title(msgspec.Struct):
    published_at: datetime
    kind: HeadlineKind
    assets: tuple[str, ...]
    title: str


class _Mood(msgspec.Struct):
    day: str
    value: float


@cache
def recorded_batch() -> Batch:
    """Everything recorded."""
    return Batch(
        source=CANDLES,
        candles=tuple(_candles()),
        headlines=tuple(_headlines()),
        network=tuple(_network()),
        observations=(*_moods(), *_prices()),
    )


def recorded_store() -> Store:
    """A new store in memory that holds everything recorded, and nothing else."""
    store = Store.in_memory(recorded=True)
    store.add(recorded_batch(), now=RECORDED_AT)
    return store


def _read(name: str) -> tuple[bytes, str]:
    body = resources.files("qaicl.oracle").joinpath("recorded", name).read_bytes()
    return body, digest(body)


def _candles() -> Iterable[Candle]:
    body, sha256 = _read("candles.csv.gz")
    for row in csv.DictReader(gzip.decompress(body).decode().splitlines()):
        yield Candle(
            source=CANDLES,
            asset=row["asset"],
            interval="1h",
            closed_at=datetime.fromisoformat(row["closed_at"]),
            open=float(row["open"]),
            high=float(row["high"]),
            low=float(row["low"]),
            close=float(row["close"]),
            volume=float(row["volume"]),
            quote=row["quote"],
            fetched_at=RECORDED_AT,
            sha256=sha256,
            recorded=True,
        )


def _headlines() -> Iterable[Headline]:
    body, sha256 = _read("headlines.jsonl")
    for title in msgspec.json.Decoder(_Title).decode_lines(body):
        yield Headline(
            source=WRITTEN,
            outlet=WRITTEN,
            title=title.title,
            kind=title.kind,
            assets=title.assets,
            published_at=title.published_at,
            fetched_at=RECORDED_AT,
            sha256=sha256,
            recorded=True,
        )


def _moods() -> Iterable[Observation]:
    body, sha256 = _read("fear_greed.json")
    for mood in msgspec.json.decode(body, type=list[_Mood]):
        yield Observation(
            source=WRITTEN,
            kind=Kind.mood,
            asset=MARKET,
            metric="fear_greed",
            observed_at=datetime.fromisoformat(mood.day).replace(tzinfo=UTC),
            fetched_at=RECORDED_AT,
            sha256=sha256,
            value=mood.value,
            recorded=True,
        )


def _network() -> Iterable[NetworkStats]:
    body, sha256 = _read("network.json")
    stats = msgspec.convert(msgspec.json.decode(body)["data"], dict[str, float], strict=False)
    yield NetworkStats(
        source=REPLY,
        asset="qubic",
        observed_at=datetime.fromtimestamp(stats["timestamp"], UTC),
        fetched_at=RECORDED_AT,
        sha256=sha256,
        epoch=int(stats["epoch"]),
        tick=int(stats["currentTick"]),
        ticks_in_epoch=int(stats["ticksInCurrentEpoch"]),
        empty_ticks=int(stats["emptyTicksInCurrentEpoch"]),
        tick_quality=stats["epochTickQuality"],
        active_addresses=int(stats["activeAddresses"]),
        circulating_supply=int(stats["circulatingSupply"]),
        burned=int(stats["burnedQus"]),
        price=stats["price"],
        market_cap=stats["marketCap"],
        recorded=True,
    )


def _prices() -> Iterable[Observation]:
    for stats in _network():
        for metric, kind, unit, value in (
            ("price", Kind.price, "USD", stats.price),
            ("market_cap", Kind.price, "USD", stats.market_cap),
            ("circulating_supply", Kind.supply, "", stats.circulating_supply),
        ):
            yield Observation(
                source=REPLY,
                kind=kind,
                asset=stats.asset,
                metric=metric,
                observed_at=stats.observed_at,
                fetched_at=RECORDED_AT,
                sha256=stats.sha256,
                value=value,
                unit=unit,
                recorded=True,
            )
