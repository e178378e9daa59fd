"""One guest's hypervisor: a small process that runs the guest and starts it again when it reboots.

Started as ``python -I hypervisor.py RECORD COMMAND…``; standard library only. While it lives, the guest has power.
``COMMAND`` is the systemd-nspawn call. It exits with 133 when the guest asked for a reboot (systemd-nspawn(1),
``--keep-unit`` and the description of ``systemd.unit RestartForceExitStatus=133``); any other end is a power-off.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

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


def main(record: Path, command: list[str]) -> int:
    guest: subprocess.Popen[bytes] | None = None

    def cut_power(signum: int, frame: FrameType | None) -> NoReturn:
        if guest is not None and guest.poll() is None:
            guest.kill()
            guest.wait()
        sys.exit(0)

    signal.signal(signal.SIGTERM, cut_power)
    _record(record, None)
    while True:
        # A killed hypervisor takes its guest with it: nothing may run that nobody has on record.
        guest = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command])
        _record(record, guest.pid)
        code = guest.wait()
        if code != REBOOT:
            return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
