"""``manifest.json``: what lies in a model's directory and where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from qaicl.errors import DamagedFileError, ModelMissingError
from qaicl.models.catalogue import is_plain
from qaicl.models.files import sha256
from qaicl.models.progress import Progress, silent

NAME = "manifest.json"
LAYOUT = 1
"""Grows when what a pull writes changes, so that an older copy is pulled again."""


class Recorded(msgspec.Struct, frozen=True):
    """A file's size in bytes and its SHA-256."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What was landed.

    ``digest`` identifies the weights: equal on every machine that holds the same ones. ``origin`` are the checksums of
    what the source delivered, before any conversion; ``entry`` is the catalogue entry's fingerprint.
    """

    layout: int
    name: str
    source: str
    family: str
    licence: str
    digest: str
    files: dict[str, Recorded]
    origin: dict[str, str]
    entry: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def record(directory: Path, progress: Progress = silent) -> dict[str, Recorded]:
    """Size and checksum of every file below ``directory`` except the manifest."""
    return {
        relative: Recorded(path.stat().st_size, sha256(path, progress, relative))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and (relative := path.relative_to(directory).as_posix()) != NAME
    }


def weights_digest(files: Mapping[str, Recorded]) -> str:
    """SHA-256 over the names and checksums of the weight files."""
    lines = [f"{file.sha256}  {name}\n" for name, file in sorted(files.items()) if name.endswith(".safetensors")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``."""
    (directory / NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read(directory: Path) -> Manifest:
    """The manifest of a model's directory.

    Raises:
        ModelMissingError: there is no such directory, or an older layout.
        DamagedFileError: the manifest is missing in it or unreadable.
    """
    fix = f"run: qaicl model pull {directory.name}"
    if not directory.is_dir():
        raise ModelMissingError(f"model '{directory.name}' is not here", why=f"nothing lies at {directory}", fix=fix)
    try:
        manifest = msgspec.json.decode((directory / NAME).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{directory} has no {NAME}", why="it was not put there by a pull", fix=fix) from error
    except (OSError, msgspec.DecodeError) as error:
        raise DamagedFileError(f"cannot read {directory / NAME}", why=str(error), fix=fix) from error
    if outside := [name for name in manifest.files if not is_plain(name)]:
        raise DamagedFileError(f"cannot trust {directory / NAME}", why=f"it names {', '.join(outside)}", fix=fix)
    if manifest.layout != LAYOUT:
        raise ModelMissingError(
            f"model '{directory.name}' was pulled by another version",
            why=f"its layout is {manifest.layout}, this version's is {LAYOUT}",
            fix=fix,
        )
    return manifest
