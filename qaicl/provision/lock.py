"""One controller at a time: a lock on the host, held for as long as the connection lives.

A process on the host holds it with flock(1) and reads stdin. When the controller ends, however it ends, stdin ends,
and so does the lock. ``unlock`` ends that process where a connection hangs half open.
"""

from __future__ import annotations

import getpass
import os
import socket
import time

import msgspec
import paramiko

from qaicl.errors import LockedError, ProvisionError
from qaicl.provision.operations.base import STATE
from qaicl.provision.ssh import Connection, unreachable

_HOLD = f"""umask 077; mkdir -p {STATE} || exit 73
exec 8>>{STATE}/lock
read -r who
if ! flock -n 8; then cat {STATE}/holder 2>/dev/null; exit 75; fi
printf '%s\\n%s\\n' "$who" "$$" > {STATE}/holder
echo locked
cat >/dev/null 8>&-
rm -f {STATE}/holder"""

_LOOK = f"[ -e {STATE}/lock ] || exit 3; flock -n {STATE}/lock true && exit 3; cat {STATE}/holder"

_BREAK = f"""[ -e {STATE}/lock ] || exit 3
flock -n {STATE}/lock true && exit 3
cat {STATE}/holder; kill "$(sed -n 2p {STATE}/holder)" && flock -w 10 {STATE}/lock rm -f {STATE}/holder"""

STEP_GUARD = f"exec 9>>{STATE}/step; flock -w 1800 9 || {{ echo 'an earlier step still runs' >&2; exit 75; }}\n"
"""Before each command: one that a killed controller left running comes to its end first."""

_ENGLISH = '[ -z "$LC_ALL" ] || { LANG=$LC_ALL; export LANG; unset LC_ALL; }; unset LANGUAGE; export LC_MESSAGES=C\n'
"""Before each command: programs complain in words that are known here. All else of the machine's locale stays."""


def guarded(script: str) -> str:
    """A step's script behind the guard. What it leaves running in the background does not keep the guard."""
    return f"{STEP_GUARD}{_ENGLISH}(\n{script}\n) 9>&-\n"


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock; ``since`` in seconds since 1970."""

    user: str
    machine: str
    pid: int
    since: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"{self.user}@{self.machine} (process {self.pid}) since {since}"


def me() -> Holder:
    """This process as a holder."""
    return Holder(getpass.getuser(), socket.gethostname(), os.getpid(), time.time())


def _holder(text: str) -> Holder | None:
    try:
        return msgspec.json.decode(text.splitlines()[0], type=Holder)
    except (IndexError, msgspec.MsgspecError):
        return None


def acquire(connection: Connection) -> paramiko.Channel:
    """Take the lock; it is held until the returned channel is closed.

    Raises:
        LockedError: somebody else holds it.
        ProvisionError: the host cannot keep a lock, for example because its disk is full.
    """
    name = connection.host.name
    channel = connection.start(_HOLD, msgspec.json.encode(me()) + b"\n")
    try:
        channel.settimeout(20.0)
        answer = b""
        while not answer.endswith(b"locked\n"):
            more = channel.recv(4096)
            if not more:
                break
            answer += more
    except (OSError, paramiko.SSHException) as error:
        raise unreachable(connection.host, f"no answer to the lock: {error}") from error
    if answer.endswith(b"locked\n"):
        return channel
    status = channel.recv_exit_status()
    if status == 75:
        holder = _holder(answer.decode("utf-8", "replace"))
        raise LockedError(
            f"{name} is being provisioned by another controller",
            why=str(holder) if holder else "it is not said by whom",
            fix="wait for it, or, if it is gone for good: qaicl provision unlock",
        )
    said = channel.makefile_stderr().read().decode("utf-8", "replace").strip()
    raise ProvisionError(
        f"{name} cannot keep a lock",
        why=said or f"exit status {status}",
        fix=f"is its disk full or read-only? Look at {STATE} there",
    )


def held_by(connection: Connection) -> str:
    """Who holds the lock; empty where nobody does."""
    result = connection.run(_LOOK)
    return str(_holder(result.text) or "somebody") if result.status == 0 else ""


def break_lock(connection: Connection) -> str:
    """End whoever holds the lock, and say who it was; empty where nobody did."""
    result = connection.run(_BREAK)
    if result.status == 3:
        return ""
    if result.status != 0:
        raise ProvisionError(
            f"the lock of {connection.host.name} stays",
            why=result.error_text.strip() or f"exit status {result.status}",
            fix="its holder does not end: log in there and kill it",
        )
    return str(_holder(result.text) or "somebody")
