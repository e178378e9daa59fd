"""How many requests a second the store takes: accept, four tokens and an outcome each, durable, batched by one thread.

    .venv/bin/python bench/store.py [REQUESTS]

Two named peers do the same scripts on the same server: redis-py's own pipeline in batches of 512, and redis-py one
command at a time. Best of three runs each, in turn.
"""

from __future__ import annotations

import platform
import select
import sys
import tempfile
import time
from pathlib import Path

import redis

from qaicl.settings import StoreSettings
from qaicl.store import ops
from qaicl.store.address import Address
from qaicl.store.embedded import EmbeddedValkey
from qaicl.store.scripts import Scripts
from qaicl.store.writer import BATCH, Result, StoreWorker

PAYLOAD = bytes(400)
TOKENS = (b"\x92\xcd\x10\x00\xa5 word",) * 4
OUTCOME = bytes(300)


def operations(run: str, count: int) -> list[ops.Op]:
    found: list[ops.Op] = []
    for number in range(count):
        id = f"{run}-{number}"
        found += [
            ops.Accept(id, PAYLOAD, 1),
            ops.RecordTokens(id, 1, 0, TOKENS),
            ops.Finish(id, 1, "done", OUTCOME, len(TOKENS)),
        ]
    return found


def by_worker(address: Address, run: str, count: int) -> float:
    work = operations(run, count)
    with StoreWorker(address, "bench", "bench") as worker:
        while not worker.drain():
            select.select([worker], [], [], 1)
        start = time.perf_counter()
        for op in work:
            worker.submit(op)
        results: list[Result] = []
        while len(results) < len(work):
            select.select([worker], [], [], 1)
            results += [event for event in worker.drain() if isinstance(event, Result)]
        seconds = time.perf_counter() - start
    assert {type(result.outcome) for result in results} == {ops.Accepted, ops.Recorded, ops.Finished}
    return count / seconds


def by_pipeline(client: redis.Redis, run: str, count: int) -> float:
    scripts = Scripts("bench", "bench")
    work = operations(run, count)
    start = time.perf_counter()
    for at in range(0, len(work), BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for op in work[at : at + BATCH]:
                pipeline.execute_command(*scripts.command(op))
            for op, raw in zip(work[at : at + BATCH], pipeline.execute(), strict=True):
                scripts.reply(op, raw)
    return count / (time.perf_counter() - start)


def one_by_one(client: redis.Redis, run: str, count: int) -> float:
    scripts = Scripts("bench", "bench")
    start = time.perf_counter()
    for op in operations(run, count):
        scripts.reply(op, client.execute_command(*scripts.command(op)))
    return count / (time.perf_counter() - start)


def latency(address: Address) -> list[float]:
    """Seconds from submitting one operation to its result, with nothing else under way."""
    seconds = []
    with StoreWorker(address, "bench", "bench") as worker:
        while not worker.drain():
            select.select([worker], [], [], 1)
        for number in range(1000):
            start = time.perf_counter()
            worker.submit(ops.Accept(f"latency-{number}", PAYLOAD, 1))
            while not worker.drain():
                select.select([worker], [], [], 1)
            seconds.append(time.perf_counter() - start)
    return sorted(seconds)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedValkey(Path(directory) / "v")
        server.start()
        try:
            address = Address.parse(StoreSettings(url=server.url))
            client = redis.Redis(unix_socket_path=str(server.socket), protocol=2)
            rates: dict[str, float] = {"worker": 0.0, "redis-py pipeline": 0.0, "redis-py one by one": 0.0}
            for run in range(3):
                rates["worker"] = max(rates["worker"], by_worker(address, f"w{run}", count))
                rates["redis-py pipeline"] = max(rates["redis-py pipeline"], by_pipeline(client, f"p{run}", count))
                rates["redis-py one by one"] = max(rates["redis-py one by one"], one_by_one(client, f"o{run}", count))
            alone = latency(address)
        finally:
            server.stop()
    print(f"{platform.machine()}, {platform.python_version()}, {count} requests a run, 3 operations each")
    for name, rate in rates.items():
        print(f"{name:20} {rate:8.0f} requests/s   worker's ratio to it {rates['worker'] / rate:.2f}")
    print(f"one write alone: p50 {alone[500] * 1000:.2f} ms, p99 {alone[990] * 1000:.2f} ms")


if __name__ == "__main__":
    main()
