"""One guest's hypervisor: a small process that runs the guest and starts it again when it reboots.

Started as ``python -I hypervisor.py RECORD GROUPS COMMAND…``; standard library only. ``GROUPS`` are the control groups
that the guest joins, separated by colons. ``COMMAND`` is the systemd-nspawn call. It exits with 133 when the guest
asked for a reboot (``--keep-unit`` in systemd-nspawn(1)); any other end is a power-off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REBOOT = 133


def start_time(pid: int) -> int:
    """When the process started, in clock ticks after boot (proc(5), /proc/PID/stat field 22)."""
    # The second field, the program's name, may hold blanks and brackets: count from behind it.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _record(path: Path, guest: int | None) -> None:
    pids = [os.getpid()] if guest is None else [os.getpid(), guest]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([[pid, start_time(pid)] for pid in pids]))
    fresh.replace(path)


def main(record: Path, groups: list[Path], command: list[str]) -> int:
    def join_groups() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text("0")

    _record(record, None)
    while True:
        # A killed hypervisor takes systemd-nspawn with it. The guest itself lives on in its control groups, where
        # the next power cut finds it.
        guest = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], preexec_fn=join_groups)
        _record(record, guest.pid)
        code = guest.wait()
        if code != REBOOT:
            return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(group) for group in sys.argv[2].split(":")], sys.argv[3:]))
