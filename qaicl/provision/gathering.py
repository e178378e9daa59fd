"""One run at a time gathers a bundle, and cleans up after one that was killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qaicl.errors import BundleError

UNFINISHED = ".new-"
"""Prefix of directories that become something else, or nothing."""


@contextmanager
def alone(directory: Path, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Gather while nobody else does; what a run that was killed left half done goes first.

    Args:
        directory: the bundle's; what is made in it beforehand begins with :data:`UNFINISHED`.
        what: is gathered, for the error.

    Raises:
        BundleError: it cannot be written.
    """
    try:
        with _locked(directory, say):
            for stale in directory.glob(f"{UNFINISHED}*"):
                shutil.rmtree(stale)
            yield
    except OSError as error:
        raise BundleError(
            f"the {what} cannot be gathered in {directory}",
            why=error.strerror or str(error),
            fix="is the disk full, or not yours to write? Mend that, then run it again",
        ) from error


@contextmanager
def _locked(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another run that gathers the bundle …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
