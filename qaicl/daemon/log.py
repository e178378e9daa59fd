"""Log lines of a daemon: one JSON object a line on stderr, which the supervisor or systemd keeps."""

from __future__ import annotations

import sys
import time

import msgspec

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes lines of at least ``level``, each with the daemon's name."""

    def __init__(self, daemon: str, level: str = "info") -> None:
        self._daemon = daemon
        self._least = LEVELS.index(level)
        self._encoder = msgspec.json.Encoder()

    def __call__(self, level: str, event: str, **fields: object) -> None:
        if LEVELS.index(level) < self._least:
            return
        line = {"time": round(time.time(), 3), "level": level, "daemon": self._daemon, "event": event, **fields}
        sys.stderr.write(self._encoder.encode(line).decode() + "\n")
        sys.stderr.flush()
