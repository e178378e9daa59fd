"""What a run tells: versioned events, one a line with ``-o json``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

VERSION = 1

Kind = Literal[
    "run-started",
    "connected",
    "host-unreachable",
    "locked",
    "planned",
    "step-started",
    "step-done",
    "step-failed",
    "upload",
    "rebooting",
    "rebooted",
    "host-done",
    "check",
    "context-written",
    "upgrade",
    "run-done",
]


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Something happened; empty fields are left out."""

    version: int
    time: float
    """Seconds since 1970."""
    kind: Kind
    host: str = ""
    step: str = ""
    name: str = ""
    text: str = ""
    changes: int = -1
    seconds: float = -1.0
    done: int = -1
    """Bytes."""
    total: int = -1
    """Bytes."""
    ok: bool | None = None


Listener = Callable[[Event], None]


class Events:
    """Hands events to a listener, one at a time, with secrets taken out."""

    def __init__(self, listener: Listener, redact: Callable[[str], str]) -> None:
        self.listener = listener
        self._redact = redact
        self._guard = threading.Lock()

    def __call__(
        self,
        kind: Kind,
        host: str = "",
        *,
        step: str = "",
        name: str = "",
        text: str = "",
        changes: int = -1,
        seconds: float = -1.0,
        done: int = -1,
        total: int = -1,
        ok: bool | None = None,
    ) -> None:
        event = Event(
            version=VERSION,
            time=time.time(),
            kind=kind,
            host=host,
            step=step,
            name=name,
            text=self._redact(text),
            changes=changes,
            seconds=seconds,
            done=done,
            total=total,
            ok=ok,
        )
        with self._guard:
            self.listener(event)
