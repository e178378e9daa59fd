"""``file:PATH``: a directory in hub form, a GGUF file, a wheel, or a safetensors file with its config beside it."""

from __future__ import annotations

from pathlib import Path

from qaicl.errors import DamagedFileError, DownloadError, UnsupportedModelError
from qaicl.models import files
from qaicl.models.archive import extract
from qaicl.models.catalogue import Model
from qaicl.models.contents import CODE_OR_PICKLE
from qaicl.models.files import CHUNK, full_disk_named, require_space
from qaicl.models.progress import Phase, Progress, Step
from qaicl.models.sources import Item


class LocalSource:
    """Files that are on this machine already; they are copied."""

    def __init__(self, model: Model, path: Path) -> None:
        self._model = model
        self._path = path

    def plan(self, partial: Path) -> list[Item]:
        unpacked = self._model.files_size if self._path.suffix == ".whl" else 0
        return [
            Item(name, size, missing=0, room=0 if self._path.suffix == ".whl" else size)
            for name, size in ((name, path.stat().st_size) for name, path in self._files().items())
        ] + ([Item(f"{self._path.name} (unpacked)", unpacked, missing=0, room=unpacked)] if unpacked else [])

    def fetch(self, partial: Path, into: Path, progress: Progress) -> None:
        if self._path.suffix == ".whl":
            self._check_archive(progress)
            extract(self._path, self._model.root, [file.path for file in self._model.files], into, progress)
            return
        if self._path.is_file():
            self._check_archive(progress)
        chosen = self._files()
        with full_disk_named(into):
            require_space(into, sum(path.stat().st_size for path in chosen.values()))
            for name, path in chosen.items():
                _copy(path, into / name, name, progress)

    def _check_archive(self, progress: Progress) -> None:
        path, wanted = self._existing(), self._model.sha256
        if wanted and (found := files.sha256(path, progress)) != wanted:
            raise DamagedFileError(
                f"{path} is not the file that the catalogue names", why=f"SHA-256 is {found}, expected {wanted}"
            )

    def _existing(self) -> Path:
        if not self._path.exists():
            raise DownloadError(f"{self._path} does not exist", fix="check 'source' in the catalogue entry")
        return self._path

    def _files(self) -> dict[str, Path]:
        """Name in the store to file here."""
        path = self._existing()
        if path.is_dir():
            root = path / self._model.root
            names = [file.path for file in self._model.files] or [
                found.relative_to(root).as_posix()
                for found in sorted(root.rglob("*"))
                if found.is_file() and not _ignored(found.relative_to(root))
            ]
            chosen = {name: root / name for name in names}
        elif path.suffix in (".gguf", ".whl"):
            chosen = {path.name: path}
        elif path.suffix == ".safetensors":
            beside = sorted(other for other in path.parent.iterdir() if other.suffix in (".json", ".txt", ".jinja"))
            chosen = {"model.safetensors": path} | {
                other.name: other for other in beside if not other.name.endswith(".index.json")
            }
        else:
            raise UnsupportedModelError(
                f"cannot take a model from {path}", why="it is no directory, .gguf, .whl or .safetensors file"
            )
        for name, file in chosen.items():
            if not file.is_file():
                raise DownloadError(f"{path} has no {name}", fix="check 'root' and 'files' in the catalogue entry")
        return chosen


def _ignored(relative: Path) -> bool:
    return relative.suffix in CODE_OR_PICKLE or any(part.startswith(".") for part in relative.parts)


def _copy(source: Path, target: Path, name: str, progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    total, done = source.stat().st_size, 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            done += len(chunk)
            progress(Step(Phase.copying, name, done, total))
