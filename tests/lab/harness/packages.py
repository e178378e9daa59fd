"""Debian packages that one lab downloaded serve the next one.

apt verifies each file against the signed index before it uses it, so a damaged one costs a download and no more.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .config import cache_directory

ARCHIVES = Path("var/cache/apt/archives")


def _cache() -> Path:
    return cache_directory() / "apt"


def lend(root: Path) -> None:
    """Copy the packages in the cache to where apt in the guest's tree looks first."""
    if _cache().is_dir():
        for package in _cache().glob("*.deb"):
            shutil.copy(package, root / ARCHIVES / package.name)


def keep(upper: Path) -> None:
    """Take what a switched-off guest has downloaded into the cache."""
    if not (upper / ARCHIVES).is_dir():
        return
    _cache().mkdir(parents=True, exist_ok=True)
    for package in (upper / ARCHIVES).glob("*.deb"):
        kept = _cache() / package.name
        if not kept.exists() and package.is_file() and package.stat().st_size:
            fresh = kept.with_suffix(f".{os.getpid()}")
            shutil.copy(package, fresh)
            fresh.replace(kept)
