"""Files that keep what took long to make. They may vanish at any time: then it is made again."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def keep(path: Path, content: bytes, *, newest: int | None = None) -> None:
    """Write a file whole or not at all; where that fails, say so in the log and go on without.

    Args:
        newest: how many files of the same suffix may lie in the directory; the longest unused are removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        if newest is not None:
            files = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda file: file.stat().st_mtime, reverse=True)
            for old in files[newest:]:
                old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not kept: %s", path, error)
