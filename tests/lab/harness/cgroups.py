"""A control group for each guest.

systemd-nspawn puts a guest's processes below the group it was started in. Three guests started in one group share
theirs: then a service on one never counts as stopped while the same service runs on another.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

from .command import wait_until

ROOT = Path("/sys/fs/cgroup")


def paths(lab: str, guest: str) -> list[Path]:
    """The guest's groups: one on a machine with cgroup v2, two (systemd's own and v2) on one with v1."""
    roots = [ROOT] if (ROOT / "cgroup.procs").exists() else [ROOT / "systemd", ROOT / "unified"]
    return [root / "qaicl-lab" / lab / guest for root in roots if root.is_dir()]


def make(groups: list[Path]) -> None:
    """Make the groups, empty."""
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)


def remove(groups: list[Path]) -> None:
    """End every process in the groups, and remove them and the groups above that are empty then."""
    for group in groups:
        if not group.is_dir():
            continue
        # A process that waits for a slow disk dies only when the disk has answered.
        wait_until(partial(_emptied, group), f"{group}: all processes gone", timeout=120.0)
        for directory, _, _ in os.walk(group, topdown=False):
            Path(directory).rmdir()
        for above in (group.parent, group.parent.parent):
            if not any(path.is_dir() for path in above.iterdir()):
                above.rmdir()


def pids(groups: list[Path]) -> set[int]:
    """The host's pids of all processes in the groups."""
    found: set[int] = set()
    for group in groups:
        for directory, _, _ in os.walk(group):
            with suppress(OSError):  # the guest removes groups of its own while we look
                found.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return found


def _emptied(group: Path) -> bool:
    left = pids([group])
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not left
