"""The local store: one directory a model, complete and verified, or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qaicl.errors import DamagedFileError, ModelError, UnknownModelError
from qaicl.models import manifest
from qaicl.models.catalogue import Model
from qaicl.models.contents import check_contents
from qaicl.models.files import full_disk_named, require_space, sha256, sync_folder, sync_tree
from qaicl.models.gguf_convert import convert
from qaicl.models.manifest import Manifest
from qaicl.models.progress import Phase, Progress, Step, silent
from qaicl.models.sources import Source


class Store:
    """Models below one directory.

    A model lies at ``<directory>/<name>``. What a pull has fetched but not landed waits in
    ``<directory>/.partial/<name>``; no reader looks there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where the model lies or would lie.

        Raises:
            UnknownModelError: that cannot be a model's name.
        """
        if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
            raise UnknownModelError(f"'{name}' is not a model's name", fix="see: qaicl model list")
        return self.directory / name

    def partial(self, name: str) -> Path:
        """Where unfinished downloads of the model wait."""
        self.path(name)
        return self.directory / ".partial" / name

    def manifest(self, name: str) -> Manifest:
        """What is recorded of the model.

        Raises:
            ModelMissingError: it is not here.
            DamagedFileError: its manifest is missing or unreadable.
        """
        return manifest.read(self.path(name))

    def open(self, name: str) -> Path:
        """The model's directory, with every file there and of the recorded size.

        Raises:
            ModelMissingError: it is not here.
            DamagedFileError: a file is missing or has another size. Content is compared by :meth:`verify` only.
        """
        directory = self.path(name)
        wrong = [
            f"{file} is missing" if not (directory / file).is_file() else f"{file} has another size"
            for file, recorded in self.manifest(name).files.items()
            if not (directory / file).is_file() or (directory / file).stat().st_size != recorded.size
        ]
        if wrong:
            raise _damaged(name, wrong)
        return directory

    def list(self) -> Sequence[str]:
        """The names of the models here, damaged ones too."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir() and path.name[0] != ".")

    def verify(self, name: str, progress: Progress = silent) -> Manifest:
        """Read every file again and compare it with the manifest.

        Raises:
            ModelMissingError: the model is not here.
            DamagedFileError: a file is missing, or its content has changed; all of them are named.
        """
        recorded = self.manifest(name)
        directory = self.path(name)
        wrong: list[str] = []
        for file, expected in recorded.files.items():
            path = directory / file
            if not path.is_file():
                wrong.append(f"{file} is missing")
                continue
            size = path.stat().st_size
            if size != expected.size:
                wrong.append(f"{file} has {size} bytes, not {expected.size}")
            elif sha256(path, progress, file) != expected.sha256:
                wrong.append(f"{file} has other content")
        if wrong:
            raise _damaged(name, wrong)
        return recorded

    def pull(self, model: Model, source: Source, progress: Progress = silent) -> Manifest:
        """Make sure that the model is here, whole.

        One that is here from the same source and verifies is left alone. Two pulls of one model at the same time do the
        work once. An interrupted pull is continued by the next.

        Args:
            model: the catalogue's entry.
            source: where its files come from.
            progress: hears of every step.

        Raises:
            DownloadError: the source failed.
            DamagedFileError: what arrived is not what the entry says.
            UnsupportedModelError: it cannot be converted, or is not a model that qaicl runs.
            NoSpaceError: the disk has not enough room.
            ModelError: the store's directory cannot be written.
        """
        final, partial = self.path(model.name), self.partial(model.name)
        try:
            partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(
                f"cannot write to the model store at {self.directory}",
                why=error.strerror or str(error),
                fix="mend that, or set models.directory to another place",
            ) from error
        with self._lock(model.name, progress):
            try:
                present = self.verify(model.name, progress)
            except ModelError:
                pass
            else:
                if present.entry == model.fingerprint:
                    shutil.rmtree(partial, ignore_errors=True)
                    return present
            partial.mkdir(parents=True, exist_ok=True)
            progress(Step(Phase.resolving, model.source))
            # Before the first byte: the disk must hold download and result at once.
            require_space(self.directory, sum(item.room for item in source.plan(partial)) + (model.installed or 0))
            staging = partial / "staging"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                source.fetch(partial, staging, progress)
                landed = self._prepare(model, staging, progress)
                self._land(staging, final, partial)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
        return landed

    @contextmanager
    def _lock(self, name: str, progress: Progress) -> Iterator[None]:
        import filelock

        lock = filelock.FileLock(self.directory / ".partial" / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(Step(Phase.waiting, name, note="another pull of this model is running"))
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _prepare(self, model: Model, staging: Path, progress: Progress) -> Manifest:
        """Check what the source brought, convert it where need be, and record it."""
        origin: dict[str, str] = {}
        for file in model.files:
            path = staging / file.path
            if not path.is_file():
                raise DamagedFileError(f"the source did not deliver {file.path}", why="the catalogue entry lists it")
            size = path.stat().st_size
            if file.size is not None and size != file.size:
                raise DamagedFileError(
                    f"{file.path} has another size", why=f"{size} bytes, the catalogue says {file.size}"
                )
            origin[file.path] = sha256(path, progress, file.path)
            if file.sha256 is not None and origin[file.path] != file.sha256:
                raise DamagedFileError(
                    f"{file.path} is not the file that the catalogue names",
                    why=f"SHA-256 is {origin[file.path]}, expected {file.sha256}",
                    fix="do not use it before you know why; nothing was changed",
                )
        for weights in sorted(staging.glob("*.gguf")):
            with full_disk_named(self.directory):
                convert(weights, staging, progress)
                weights.unlink()
        check_contents(staging, model.family)
        recorded = manifest.record(staging, progress)
        landed = Manifest(
            layout=manifest.LAYOUT,
            name=model.name,
            source=model.source,
            family=model.family,
            licence=model.licence,
            digest=manifest.weights_digest(recorded),
            files=recorded,
            origin=origin,
            entry=model.fingerprint,
        )
        manifest.write(staging, landed)
        return landed

    def _land(self, staging: Path, final: Path, partial: Path) -> None:
        sync_tree(staging)
        replaced = partial / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            final.rename(replaced)
        staging.rename(final)
        sync_folder(self.directory)


def _damaged(name: str, wrong: list[str]) -> DamagedFileError:
    return DamagedFileError(f"model '{name}' is damaged", why="; ".join(wrong), fix=f"run: qaicl model pull {name}")
