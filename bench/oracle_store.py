"""How much a hundred thousand stored observations slow down what a report reads.

Loads one asset's snapshot from a store with 1,000 observations and from one with many, the same month of candles in
both, and prints both medians and their ratio. The promise is a ratio of at most 1.5.

    python bench/oracle_store.py
    python bench/oracle_store.py --database-url 'postgresql://qaicl@/bench?host=/run/postgresql'

The PostgreSQL database must be empty; what is written into it is deleted again.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import delete

from qaicl.oracle.observations import Batch, Candle, Kind, Observation
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.oracle.tables import metadata
from qaicl.settings import OracleSettings, Paths

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
METRICS = ("price", "market_cap", "volume_24h", "change_24h", "news_tone")
SOURCES = ("coingecko", "mexc", "gate", "qubic")


def observations(count: int) -> Iterator[Observation]:
    """Hourly figures of four sources, newest first."""
    made = 0
    for back in range(count):
        for metric in METRICS:
            for number, source in enumerate(SOURCES):
                if made == count:
                    return
                made += 1
                at = NOW - back * HOUR
                yield Observation(
                    source=source,
                    kind=Kind.price,
                    asset="qubic",
                    metric=metric,
                    observed_at=at,
                    fetched_at=at,
                    sha256=f"{made:064x}",
                    value=1.0 + number / 1000,
                    unit="USD",
                )


def candles() -> Iterator[Candle]:
    for back in range(720):
        yield Candle(
            source="mexc",
            asset="qubic",
            interval="1h",
            closed_at=NOW - back * HOUR,
            open=1.0,
            high=1.1,
            low=0.9,
            close=1.0,
            volume=5.0,
            quote="USDT",
            fetched_at=NOW,
            sha256="0" * 64,
        )


def fill(store: Store, count: int) -> None:
    batch: list[Observation] = []
    for observation in observations(count):
        batch.append(observation)
        if len(batch) == 5000:
            store.add(Batch(source="bench", observations=tuple(batch)), now=NOW)
            batch.clear()
    store.add(Batch(source="bench", observations=tuple(batch), candles=tuple(candles())), now=NOW)


def median_seconds(store: Store, repeats: int) -> float:
    times = []
    Snapshot.load(store, "qubic", NOW)  # warm
    for _ in range(repeats):
        began = time.perf_counter()
        snapshot = Snapshot.load(store, "qubic", NOW)
        times.append(time.perf_counter() - began)
        assert len(snapshot.candles) == 720
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database-url", default="", help="an empty PostgreSQL database; SQLite by default")
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=21)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder), Path(folder), Path(folder))
        with Store.open(OracleSettings(database_url=arguments.database_url), paths, "bench") as store:
            fill(store, 1000)
            few = median_seconds(store, arguments.repeats)
            fill(store, arguments.observations)
            many = median_seconds(store, arguments.repeats)
            kind = store.url.get_backend_name()
            with store.writing() as connection:
                for table in metadata.sorted_tables:
                    connection.execute(delete(table))
    print(
        f"machine: {platform.machine()}, {platform.platform()}; database: {kind}; median of {arguments.repeats} loads"
    )
    print(f"snapshot with 1,000 observations: {few * 1000:.1f} ms")
    print(f"snapshot with {arguments.observations:,} observations: {many * 1000:.1f} ms")
    print(f"ratio: {many / few:.2f}")


if __name__ == "__main__":
    main()
