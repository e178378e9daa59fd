"""How long a warm report takes, part by part, and what a full store costs it.

    python bench/report.py [--observations 100000] [--runs 5] [--database URL]

Warm: one process that has made a report before (models loaded, forecast trained for this bar), as in the daemon.
The same report is timed on the recorded records alone and with that many more observations beside them; the goal is
3 s and a ratio of at most 1.5. Without --database the stores are SQLite files; a PostgreSQL database must be empty.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from qaicl import settings
from qaicl.oracle.observations import Batch, Kind, Observation
from qaicl.oracle.recording import recorded_batch
from qaicl.oracle.report.builder import Timings, build_report
from qaicl.oracle.report.html import render_html
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store

ASSET = "ethereum"
NOW = datetime(2018, 1, 30, 5, 0, tzinfo=UTC)


def fill(store: Store, count: int) -> None:
    """Observations of prices, volumes and network figures of twenty assets, one a minute each, up to the report."""
    metrics = ("price", "volume_24h", "market_cap", "change_24h", "active_addresses")
    for start in range(0, count, 10_000):
        rows = []
        for i in range(start, min(start + 10_000, count)):
            asset = ASSET if i % 20 == 0 else f"other{i % 20}"
            # The asset's own are of other metrics than the price, so that the report says the same.
            metric = metrics[1 + i // 20 % 4] if asset == ASSET else metrics[i // 20 % 5]
            observed = NOW - timedelta(seconds=6 * (count - i))
            rows.append(
                Observation(
                    source=f"filler{i % 3}",
                    kind=Kind.price,
                    asset=asset,
                    metric=metric,
                    observed_at=observed,
                    fetched_at=observed,
                    sha256="00" * 32,
                    value=float(i),
                    unit="BTC",
                )
            )
        store.add(Batch(source="filler", observations=tuple(rows)), now=NOW)


def measure(store: Store, loaded: settings.Settings, runs: int) -> tuple[float, float, dict[str, float]]:
    """Median seconds of a warm report with its HTML by the clock and in processor time, and of each part."""
    totals, worked, parts = [], [], []
    for run in range(runs + 1):
        timings = Timings()
        started, began = time.perf_counter(), time.process_time()
        with timings.part("store"):
            snapshot = Snapshot.load(store, ASSET, now=NOW)
        report = build_report(
            snapshot, timedelta(days=1), generated_at=NOW, settings=loaded, has_network=False, timings=timings
        )
        with timings.part("render"):
            render_html(report)
        if run:
            totals.append(time.perf_counter() - started)
            worked.append(time.process_time() - began)
            parts.append(timings.seconds)
        elif report.absent:
            print("note:", {name: absent.why for name, absent in report.absent.items()})
    return (
        statistics.median(totals),
        statistics.median(worked),
        {name: statistics.median(p[name] for p in parts) for name in parts[0]},
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--database", default="", help="an empty PostgreSQL database; SQLite by default")
    options = parser.parse_args()
    found = settings.load()
    with tempfile.TemporaryDirectory() as folder:
        # Models come from the user's own store; forecasts are cached in the temporary directory.
        models = msgspec.structs.replace(found.values.models, directory=str(found.paths.models(found.values.models)))
        values = msgspec.structs.replace(found.values, models=models)
        root = Path(folder)
        loaded = settings.Settings(values, settings.Paths(root / "c", root / "d", root / "s"), "bench")
        oracle = msgspec.structs.replace(values.oracle, database_url=options.database)
        with Store.open(oracle, loaded.paths, loaded.context) as store:
            kind = store.url.get_backend_name()
            store.add(recorded_batch(), now=NOW)
            lean, lean_busy, _ = measure(store, loaded, options.runs)
            fill(store, options.observations)
            full, busy, parts = measure(store, loaded, options.runs)
    print(
        f"warm report, {kind}, median of {options.runs}: {lean:.2f} s; with {options.observations} more: {full:.2f} s"
    )
    print(f"processor time of this process: {lean_busy:.2f} s, with the full store {busy:.2f} s")
    print(
        f"ratio {full / lean:.2f}, in processor time {busy / lean_busy:.2f} (goal: at most 1.5); goal for a report: 3 s"
    )
    print("parts with the full store: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in parts.items()))
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
