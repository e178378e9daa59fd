"""The packages of the bundle: a flat repository, gathered on the operator's machine for machines without a mirror.

Its index holds the records of the distribution's signed one, with their hashes: what a machine's apt verifies is what
was signed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qaicl.errors import BundleError
from qaicl.provision.apt import Package, PrivateApt, Target
from qaicl.provision.bundle import sha256
from qaicl.provision.gathering import UNFINISHED, alone
from qaicl.provision.operations.base import PACKAGE_INDEX, BundleFile
from qaicl.provision.secrets import write_private

VERSION = 1


class PackageManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was gathered; paths are relative to its directory."""

    version: int = VERSION
    target: Target
    sources: list[str]
    names: list[str]
    """What was asked for; the files are these and what they depend on."""
    beside: list[str]
    """What machines have installed that is built together with one of the files."""
    built_from: list[str]
    """The source packages of the files."""
    files: list[BundleFile]


@dataclass(frozen=True)
class PackageBundle:
    """Gathered packages on the operator's machine."""

    directory: Path
    manifest: PackageManifest

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """The index and the packages, with their paths here."""
        return tuple(
            msgspec.structs.replace(file, source=str(self.directory / file.name)) for file in self.manifest.files
        )


def ensure(
    directory: Path,
    *,
    target: Target,
    names: Collection[str],
    installed: Mapping[str, str],
    sources: Sequence[str],
    say: Callable[[str], None],
    refresh: bool = False,
) -> PackageBundle:
    """The packages, gathered anew only where one is missing or something else is meant.

    Args:
        directory: ``packages`` in it is the result, ``apt`` keeps what was fetched for the next time.
        installed: package → source package of what machines have. What is built from one source belongs together at
            one version: where a machine gets a newer part of it, it needs the others too.
        sources: lines as in ``sources.list``; empty means those of this machine, where it runs the same release.
        refresh: ask for newer versions also where nothing is missing.

    Raises:
        BundleError: they cannot be had. What was there before stays.
    """
    with alone(directory, "packages", say):
        return _ensure(directory, target, names, installed, sources, say, refresh)


def _ensure(
    directory: Path,
    target: Target,
    names: Collection[str],
    installed: Mapping[str, str],
    sources: Sequence[str],
    say: Callable[[str], None],
    refresh: bool,
) -> PackageBundle:
    place = directory / "packages"
    manifest = _read(place)
    if manifest is not None and (manifest.target, manifest.sources) != (target, list(sources)):
        manifest = None
    beside = set(manifest.beside) if manifest else set()
    if manifest is not None and not refresh:
        more = _together(installed, manifest.built_from, (file.name for file in manifest.files))
        if set(names) <= set(manifest.names) and more <= beside and _complete(place, manifest):
            return PackageBundle(place, manifest)
    apt = PrivateApt(directory / "apt", target, sources)
    apt.update()
    while True:
        wanted = {*names, *apt.available(beside)}
        packages = apt.resolve(wanted)
        built_from = {package.source for package in packages}
        more = _together(installed, built_from, (package.name for package in packages))
        if more <= beside:
            break
        beside |= more
    size = sum(package.size for package in packages)
    say(f"fetching {len(packages)} packages for {target} ({size / 1e6:.0f} MB) …")
    apt.fetch(wanted, packages)
    manifest = _place(place, packages, target=target, names=names, beside=beside, sources=sources)
    apt.keep_only(packages)
    return PackageBundle(place, manifest)


def _together(installed: Mapping[str, str], built_from: Collection[str], files: Iterable[str]) -> set[str]:
    """What is installed that is of the same source packages and not among the files."""
    there = {file.partition("_")[0] for file in files}
    return {name for name, source in installed.items() if source in built_from and name not in there}


def _place(
    place: Path,
    packages: Sequence[Package],
    *,
    target: Target,
    names: Collection[str],
    beside: Collection[str],
    sources: Sequence[str],
) -> PackageManifest:
    """Put the repository in its place, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=UNFINISHED) as temporary:
        fresh = Path(temporary) / "packages"
        fresh.mkdir()
        for package in packages:
            (fresh / package.name).hardlink_to(package.path)
        (fresh / PACKAGE_INDEX).write_text("\n".join(package.record for package in packages), encoding="utf-8")
        manifest = PackageManifest(
            target=target,
            sources=list(sources),
            names=sorted(names),
            beside=sorted(beside),
            built_from=sorted({package.source for package in packages}),
            files=[BundleFile(path.name, path.stat().st_size, sha256(path)) for path in sorted(fresh.iterdir())],
        )
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        # For the owner alone: a source may hold a password.
        write_private(fresh / "manifest.json", data)
        if place.exists():
            place.rename(Path(temporary) / "old")
        fresh.rename(place)
    return manifest


def verify(files: Iterable[BundleFile]) -> None:
    """Read every file again.

    Raises:
        BundleError: one has another sha256 than the manifest says.
    """
    for file in files:
        path = Path(file.source)
        if not path.is_file() or sha256(path) != file.sha256:
            raise BundleError(
                f"{file.name} in the bundle is damaged",
                why="its sha256 is not the manifest's",
                fix="gather the packages again: qaicl provision bundle --refresh",
            )


def _read(place: Path) -> PackageManifest | None:
    try:
        return msgspec.json.decode((place / "manifest.json").read_bytes(), type=PackageManifest)
    except (OSError, msgspec.MsgspecError):
        return None  # none yet, or one of another version: they are gathered anew


def _complete(place: Path, manifest: PackageManifest) -> bool:
    paths = {place / file.name: file.size for file in manifest.files}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())
