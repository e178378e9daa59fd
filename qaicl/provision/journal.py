"""The journal: what was begun and done on a host, one JSON line each, on the operator's machine.

Truth about a machine is always read from the machine; the journal tells where a run stood when it ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

VERSION = 1

State = Literal["run-started", "started", "done", "failed", "undone", "rebooting", "rebooted", "run-done", "run-failed"]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line."""

    version: int = VERSION
    time: float
    run: str
    state: State
    step: str = ""
    text: str = ""
    undo: Sequence[str] = ()
    seconds: float = 0.0


class Journal:
    """The journal of one host."""

    def __init__(self, directory: Path, host: str, run: str) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = directory / f"{host}.jsonl"
        self._run = run

    def write(
        self,
        state: State,
        step: str = "",
        *,
        text: str = "",
        undo: Sequence[str] = (),
        seconds: float = 0.0,
    ) -> None:
        """Append a line and have it on disk before returning. ``text`` holds no secret."""
        entry = Entry(
            time=time.time(),
            run=self._run,
            state=state,
            step=step,
            text=text,
            undo=undo,
            seconds=seconds,
        )
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # A line that a kill cut short must not take this one with it.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * torn + msgspec.json.encode(entry) + b"\n")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def read(directory: Path, host: str) -> list[Entry]:
    """All entries of a host; a last line that a kill cut short is left out."""
    try:
        lines = (directory / f"{host}.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(msgspec.json.decode(line, type=Entry))
        except msgspec.MsgspecError:
            continue
    return entries


def last_run(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of the latest run."""
    return [entry for entry in entries if entry.run == entries[-1].run] if entries else []


def interrupted_at(entries: Sequence[Entry]) -> str | None:
    """The step during which the latest run ended without a word; empty: between two; None: it came to an end."""
    run = last_run(entries)
    if not run or run[-1].state in ("run-done", "run-failed"):
        return None
    return run[-1].step if run[-1].state in ("started", "rebooting") else ""
