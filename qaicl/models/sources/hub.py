"""``hf:ORGANISATION/NAME@REVISION``: a repository on a model hub.

The hub's protocol: ``GET /api/models/REPO/revision/REVISION?blobs=true`` lists the files with sizes and checksums;
``GET /REPO/resolve/COMMIT/FILE`` answers with the file or a redirect to a content network, and names the commit, the
size and the checksum in ``X-Repo-Commit``, ``X-Linked-Size`` and ``X-Linked-Etag``.
"""

from __future__ import annotations

import fnmatch
import re
import urllib.parse
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec

from qaicl.errors import DamagedFileError, DownloadError
from qaicl.models.catalogue import Model, is_plain
from qaicl.models.download import Downloader, Remote, missing_bytes
from qaicl.models.progress import Progress
from qaicl.models.sources import Item

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
    "LICENSE*",
)
"""What is taken of a repository where the entry lists no files; weights that would run code when loaded are never."""

_COMMIT = re.compile("[0-9a-f]{40}")


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: int


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    blob_id: str | None = msgspec.field(default=None, name="blobId")
    lfs: _Lfs | None = None


class _Repository(msgspec.Struct):
    sha: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
    siblings: list[_Sibling]


class HubSource:
    """A repository at a pinned revision."""

    def __init__(self, model: Model, place: str, *, hub: str, token: str, downloader: Downloader) -> None:
        self._model = model
        self._repo, _, self._revision = place.partition("@")
        self._hub = hub.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._downloader = downloader
        self._prefix = f"{model.root}/" if model.root else ""

    def plan(self, partial: Path) -> list[Item]:
        planned = []
        for name, remote in self._remotes.items():
            missing = missing_bytes(remote, partial / "files" / name)
            planned.append(Item(name, remote.size, missing, room=missing or 0))
        return planned

    def fetch(self, partial: Path, into: Path, progress: Progress) -> None:
        for name, remote in self._remotes.items():
            self._downloader.fetch(remote, partial / "files" / name)
        for name in self._remotes:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / "files" / name).rename(target)

    @cached_property
    def _remotes(self) -> dict[str, Remote]:
        """Name to file, as the hub lists them."""
        url = f"{self._hub}/api/models/{self._repo}/revision/{urllib.parse.quote(self._revision, safe='')}?blobs=true"
        text = self._downloader.read(Remote(url, self._repo, headers=self._headers))
        try:
            repository = msgspec.json.decode(text, type=_Repository)
        except msgspec.DecodeError as error:
            raise DownloadError(
                f"cannot read the file list of {self._repo}",
                why=f"the hub's answer was not understood: {error}",
                fix="check models.hub",
            ) from error
        if _COMMIT.fullmatch(self._revision) and repository.sha != self._revision:
            raise DamagedFileError(
                f"the hub gave another revision of {self._repo}",
                why=f"asked for {self._revision}, got {repository.sha}",
            )
        return {
            sibling.rfilename.removeprefix(self._prefix): self._remote(sibling, repository.sha)
            for sibling in self._chosen(repository)
        }

    def _chosen(self, repository: _Repository) -> list[_Sibling]:
        offered = {sibling.rfilename: sibling for sibling in repository.siblings}
        prefix = self._prefix
        if self._model.files:
            names = [prefix + file.path for file in self._model.files]
        else:
            names = [
                name
                for name in offered
                if name.startswith(prefix)
                and any(fnmatch.fnmatchcase(name.removeprefix(prefix), pattern) for pattern in WANTED)
            ]
        missing = [name for name in names if name not in offered]
        if missing or not names:
            raise DownloadError(
                f"{self._repo} has no {', '.join(missing) or 'model files'}",
                why=f"revision {self._revision} holds {', '.join(sorted(offered)[:12]) or 'nothing'}",
                fix="check 'source' and 'files' in the catalogue entry",
            )
        for name in names:
            if not is_plain(name):
                raise DamagedFileError(
                    f"{self._repo} is hostile",
                    why=f"its file '{name}' would be written outside the model's directory",
                    fix="do not use this source",
                )
        return [offered[name] for name in names]

    def _remote(self, sibling: _Sibling, commit: str) -> Remote:
        path = sibling.rfilename.removeprefix(self._prefix)
        listed = next((file for file in self._model.files if file.path == path), None)
        size = sibling.lfs.size if sibling.lfs else sibling.size
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        for kind, offered, wanted in (
            ("size", size, listed.size if listed else None),
            ("SHA-256", sha256, listed.sha256 if listed else None),
        ):
            if offered is not None and wanted is not None and offered != wanted:
                raise DamagedFileError(
                    f"{sibling.rfilename} of {self._repo} is not the file that the catalogue names",
                    why=f"{kind} at the hub is {offered}, the catalogue says {wanted}",
                    fix="do not use it before you know why; if it is right, correct the catalogue entry",
                )
        return Remote(
            f"{self._hub}/{self._repo}/resolve/{commit}/{urllib.parse.quote(sibling.rfilename)}",
            sibling.rfilename,
            size=listed.size if listed and listed.size else size,
            sha256=listed.sha256 if listed and listed.sha256 else sha256,
            git_sha1=sibling.blob_id if sibling.lfs is None else None,
            headers=self._headers,
            commit=commit,
        )
