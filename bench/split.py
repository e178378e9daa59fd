"""One request over two one-thread nodes against one one-thread replica, in turn on the same cluster.

    python bench/split.py [--rounds 5] [--tokens 48] [--precision float32]

Also the breakdown of a cold start: from ``up`` to the first answer, the model being there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time

from qaicl import settings
from qaicl.daemon.supervisor import Supervisor
from qaicl.inference.engine import ChatMessage, Sampling
from qaicl.settings import Paths
from qaicl.wire.client import Client
from qaicl.wire.messages import RequestSpec, new_id


def ask(client: Client, mode: str, stages: int, tokens: int) -> tuple[float, float]:
    """(tokens a second after the first, milliseconds to the first)."""
    sampling = Sampling(max_tokens=tokens)
    spec = RequestSpec(
        new_id(),
        "bench",
        "",
        (ChatMessage("user", "Tell me of the sea."),),
        sampling,
        mode,
        stages,  # type: ignore[arg-type]
    )
    count = 0
    first = last = 0.0
    for update in client.ask([spec]):
        if update.tokens:
            last = time.perf_counter()
            first = first or last
            count += len(update.tokens)
        if update.outcome is not None:
            return (count - 1) / (last - first), update.outcome.first_token_ms
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    models = str(Paths.find().data / "models")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(prefix="qaicl-") as home:
        os.environ["QAICL_HOME"] = home
        os.environ.setdefault("QAICL_MODELS_DIRECTORY", models)
        flags = {"cluster.nodes": 2, "cluster.threads": 1, "cluster.precision": arguments.precision}
        supervisor = Supervisor(settings.load(None, flags))
        for start in ("first start, speed not measured yet", "second start"):
            begun = time.perf_counter()
            supervisor.up(set(), lambda _: None)
            up = time.perf_counter() - begun
            with Client(supervisor.settings.paths.context("default")) as client:
                begun = time.perf_counter()
                _, first = ask(client, "auto", 0, 8)
                print(f"cold, {start}: up {up:.1f} s, first token {first / 1000:.2f} s after that")
                daemons = supervisor.settings.paths.run("default") / "daemons"
                lines = [json.loads(line) for line in (daemons / "node-1.log").read_text().splitlines()]
                steps = {line["event"]: line for line in lines if "seconds" in line}
                for name, line in steps.items():
                    print(f"  node-1 {name}: {line['seconds']:.2f} s")
                if start == "second start":
                    ratios = []
                    for _ in range(arguments.rounds):
                        split, _ = ask(client, "split", 2, arguments.tokens)
                        alone, _ = ask(client, "replica", 1, arguments.tokens)
                        ratios.append(split / alone)
                        print(f"split {split:.1f} tok/s, replica {alone:.1f} tok/s, ratio {split / alone:.2f}")
                    print(f"median ratio {statistics.median(ratios):.2f} (goal 0.9)")
            supervisor.down()


if __name__ == "__main__":
    main()
