"""Detached processes that outlive the command that started them, known by pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

RECORD = "QAICL_RECORD"
"""Environment variable that tells a daemon where its record lies."""


class Running(msgspec.Struct, frozen=True):
    """A started process. The start time tells it from a later process with the same pid."""

    name: str
    kind: str
    pid: int
    started: float
    bind: str = ""


def spawn(
    directory: Path, name: str, kind: str, command: list[str], environ: Mapping[str, str], bind: str = ""
) -> Running:
    """Start a process in a session of its own; its output goes to ``<name>.log``, its record to ``<name>.json``."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = str(directory / f"{name}.log")
    pid = os.posix_spawn(
        command[0],
        command,
        {**environ, RECORD: str(directory / f"{name}.json")},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    running = Running(name, kind, pid, psutil.Process(pid).create_time(), bind)
    temporary = directory / f".{name}.json"
    temporary.write_bytes(msgspec.json.encode(running))
    temporary.replace(directory / f"{name}.json")
    return running


def known(directory: Path) -> list[Running]:
    """The recorded processes of a directory, dead or alive, by name."""
    if not directory.is_dir():
        return []
    return [msgspec.json.decode(path.read_bytes(), type=Running) for path in sorted(directory.glob("*.json"))]


def abandoned() -> bool:
    """Is this process one that was spawned here, and whose record is missing or names another?

    So it is when the command that spawned it was killed before it could write the record down.
    """
    path = os.environ.get(RECORD)
    if path is None:
        return False
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Running).pid != os.getpid()
    except FileNotFoundError:
        return True


def alive(running: Running) -> bool:
    """Does that very process still run?"""
    try:
        process = psutil.Process(running.pid)
        if process.create_time() != running.started:
            return False
        if process.status() == psutil.STATUS_ZOMBIE:
            _reap([running])
            return False
        return True
    except psutil.NoSuchProcess:
        return False


def end(processes: Sequence[Running], patience: float = 5.0) -> list[Running]:
    """Ask processes to end, wait, and kill those that did not.

    Returns:
        Those that had to be killed.
    """
    waiting = [running for running in processes if alive(running)]
    for running in waiting:
        _signal(running, signal.SIGCONT)
        _signal(running, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while (waiting := [running for running in waiting if alive(running)]) and time.monotonic() < deadline:
        _reap(waiting)
        time.sleep(0.02)
    for running in waiting:
        _signal(running, signal.SIGKILL)
    deadline = time.monotonic() + patience
    left = waiting
    while (left := [running for running in left if alive(running)]) and time.monotonic() < deadline:
        _reap(left)
        time.sleep(0.02)
    return waiting


def _signal(running: Running, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, number)


def _reap(processes: Sequence[Running]) -> None:
    for running in processes:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(running.pid, os.WNOHANG)


def forget(directory: Path, running: Running) -> None:
    """Remove the record."""
    (directory / f"{running.name}.json").unlink(missing_ok=True)


def tail(directory: Path, name: str, lines: int = 5) -> str:
    """The end of a process's log."""
    path = directory / f"{name}.log"
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
