"""Files on disk: checksums, free space, and writes that survive a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qaicl.errors import NoSpaceError
from qaicl.models.progress import Phase, Progress, Step, silent

CHUNK = 1 << 20
RESERVE = 64 * 1024 * 1024
"""Bytes that stay free beside a model, so that logs and databases on the same disk go on."""


def sha256(path: Path, progress: Progress = silent, label: str = "") -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(Step(Phase.verifying, label or path.name, done, total))
    return digest.hexdigest()


def git_blob(size: int) -> Any:
    """A hash object that, fed the content, gives git's blob id, which is a hub's checksum of small files."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def readable_size(count: int) -> str:
    """Bytes for people: ``512 B``, ``98.4 MB``, ``3.55 GB``, in powers of 1000."""
    if count < 1000:
        return f"{count} B"
    for unit, power in (("kB", 3), ("MB", 6)):
        if count < 0.9995 * 10 ** (power + 3):
            return f"{count / 10**power:.3g} {unit}"
    return f"{count / 1e9:.3g} GB" if count < 1e11 else f"{count / 1e9:.0f} GB"


def require_space(directory: Path, needed: int) -> None:
    """Make sure that ``needed`` bytes and a reserve are free on the disk of ``directory``.

    Raises:
        NoSpaceError: with both numbers.
    """
    free = shutil.disk_usage(directory).free
    reserve = min(RESERVE, needed // 10)
    if free < needed + reserve:
        raise NoSpaceError(
            f"not enough room in {directory}",
            why=f"{readable_size(needed + reserve)} needed, {readable_size(free)} free",
            fix="free some, or set models.directory to another disk",
        )


@contextmanager
def full_disk_named(directory: Path) -> Iterator[None]:
    """Turn a disk that runs full in the middle of a write into the error that says so.

    Raises:
        NoSpaceError: ENOSPC or EDQUOT came up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError(
            f"the disk of {directory} is full",
            why=f"{readable_size(shutil.disk_usage(directory).free)} free",
            fix="free some and run the same command again: it resumes",
        ) from error


def sync_tree(directory: Path) -> None:
    """Bring every file and folder below ``directory`` to disk."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in (*names, "."):
            handle = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def sync_folder(directory: Path) -> None:
    """Bring a folder's entries to disk, so that a rename in it lasts."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
