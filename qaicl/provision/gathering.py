"""One run at a time gathers a bundle, and cleans up after one that was killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

UNFINISHED = ".new-"
"""Prefix of directories that become something else, or nothing."""


@contextmanager
def alone(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Gather while nobody else does; what a run that was killed left half done goes first.

    Args:
        directory: the bundle's; what is made in it beforehand begins with :data:`UNFINISHED`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another run that gathers the bundle …")
        lock.acquire()
    try:
        for stale in directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(stale)
        yield
    finally:
        lock.release()
