"""Requests that do no model work: client to node and back, with their durable writes.

    python bench/dispatch.py [--seconds 10]

Two figures: latency at 200 requests a second arriving evenly, and the rate with 50 at once against
``dask.distributed``'s ``submit`` of an empty function (two worker processes, nothing durable) in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qaicl import settings
from qaicl.daemon.supervisor import Supervisor
from qaicl.inference.engine import ChatMessage, Sampling
from qaicl.wire.client import Client
from qaicl.wire.messages import RequestSpec, new_id

AT_ONCE = 50


def request() -> RequestSpec:
    return RequestSpec(new_id(), "bench", "", (ChatMessage("user", "nothing"),), Sampling(max_tokens=0), "replica")


@contextmanager
def cluster() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="qaicl-") as home:
        os.environ["QAICL_HOME"] = home
        loaded = settings.load(None, {"cluster.model": "echo", "cluster.nodes": 2, "cluster.orchestrators": 1})
        supervisor = Supervisor(loaded)
        supervisor.up(set(), lambda _: None)
        try:
            yield loaded.paths.context("default")
        finally:
            supervisor.down()


def latencies(context: Path, rate: float, seconds: float) -> list[float]:
    """Milliseconds of each request, sent by the clock whether or not the ones before have ended."""
    sent: dict[str, float] = {}
    took: list[float] = []
    total = int(rate * seconds)
    due = time.perf_counter() + 0.2

    def specs() -> Iterator[RequestSpec | None]:
        for number in range(total):
            while time.perf_counter() < due + number / rate:
                yield None
            made = request()
            sent[made.id] = time.perf_counter()
            yield made

    with Client(context) as client:
        for update in client.ask(specs()):
            if update.outcome is not None:
                took.append((time.perf_counter() - sent[update.request]) * 1000)
    return took


def rate_at_once(context: Path, count: int) -> tuple[float, float]:
    """(requests a second, median milliseconds) with AT_ONCE requests always under way."""
    sent: dict[str, float] = {}
    took: list[float] = []
    begun = time.perf_counter()
    with Client(context) as client:
        window = threading.BoundedSemaphore(AT_ONCE)

        def specs() -> Iterator[RequestSpec | None]:
            left = count
            while left:
                if not window.acquire(blocking=False):
                    yield None
                    continue
                left -= 1
                made = request()
                sent[made.id] = time.perf_counter()
                yield made

        for update in client.ask(specs()):
            if update.outcome is not None:
                took.append((time.perf_counter() - sent[update.request]) * 1000)
                window.release()
    return count / (time.perf_counter() - begun), statistics.median(took)


def dask_at_once(count: int) -> tuple[float, float]:
    """The same of ``dask.distributed``."""
    from distributed import Client as DaskClient
    from distributed import LocalCluster, as_completed

    def nothing(number: int) -> None:
        return None

    took: list[float] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local, DaskClient(local) as client:
        client.submit(nothing, -1, pure=False).result()
        sent = {}
        begun = time.perf_counter()
        first = [client.submit(nothing, number, pure=False) for number in range(AT_ONCE)]
        for future in first:
            sent[future.key] = begun
        queue = as_completed(first)
        number = AT_ONCE
        for future in queue:
            took.append((time.perf_counter() - sent[future.key]) * 1000)
            if number < count:
                fresh = client.submit(nothing, number, pure=False)
                sent[fresh.key] = time.perf_counter()
                queue.add(fresh)
                number += 1
        return count / (time.perf_counter() - begun), statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=4000)
    arguments = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with cluster() as context:
        latencies(context, 200, 1.0)
        took = sorted(latencies(context, 200, arguments.seconds))
        p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
        print(f"200 a second, {len(took)} requests: p50 {p50:.2f} ms (goal 2), p99 {p99:.2f} ms (goal 10)")
        ours, median = rate_at_once(context, arguments.count)
    print(f"50 at once: {ours:.0f} a second, p50 {median:.1f} ms, each durable before it was accepted")
    try:
        theirs, dask_median = dask_at_once(min(arguments.count, 2000))
    except ImportError:
        print("dask.distributed is not installed: pip install -e '.[bench]'")
        return
    print(f"dask.distributed: {theirs:.0f} a second, p50 {dask_median:.1f} ms; ratio {ours / theirs:.1f} (goal 4)")


if __name__ == "__main__":
    main()
