"""``qaicl --help`` against ``python -c "import typer"``, whole processes in turn.

python bench/cli_start.py [--runs 20]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    ours = [str(Path(sys.executable).parent / "qaicl"), "--help"]
    peer = [sys.executable, "-c", "import typer"]
    seconds(ours)
    seconds(peer)
    pairs = [(seconds(ours), seconds(peer)) for _ in range(runs)]
    ratio = statistics.median(one / other for one, other in pairs)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"qaicl --help {statistics.median(one for one, _ in pairs) * 1000:.0f} ms, import typer "
        f"{statistics.median(other for _, other in pairs) * 1000:.0f} ms; median ratio {ratio:.2f} (goal 1.5)"
    )


if __name__ == "__main__":
    main()
