"""One file over HTTP: resumed where it broke off, verified, retried with growing pauses."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qaicl.errors import (
    DamagedFileError,
    DownloadError,
    DownloadRefusedError,
    DownloadUnreachableError,
)
from qaicl.models.files import CHUNK, full_disk_named, git_blob, readable_size, require_space
from qaicl.models.progress import Phase, Progress, Step, silent

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 6
"""Failures in a row, without a byte gained between them, that end a download."""
ATTEMPTS_UNREACHED = 3
"""The same for a server that was never reached: somebody without a network should not wait long to hear it."""
PAUSE_BASE, PAUSE_MOST = 0.5, 30.0
RETRY_AFTER_MOST = 120.0
DOCUMENT_MOST = 16_000_000
T = TypeVar("T")
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    ``headers`` carry a token: it goes to the URL's own host and never to another that it redirects to. ``commit`` is
    the revision that a hub must name in its answer.
    """

    url: str
    label: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    commit: str | None = None


class _Transient(Exception):  # noqa: N818
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, *, wait: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.unreachable = unreachable


def client() -> httpx.Client:
    """An HTTP client that trusts the system's certificates and the usual public ones."""
    import certifi
    import httpx

    trust = ssl.create_default_context()
    trust.load_verify_locations(certifi.where())
    return httpx.Client(
        verify=trust,
        timeout=httpx.Timeout(30.0, connect=10.0),
        follow_redirects=True,
        headers={"User-Agent": "qaicl", "Accept-Encoding": "identity"},
    )


def part_of(target: Path) -> Path:
    """Where an unfinished download of ``target`` waits to be resumed."""
    return target.with_name(target.name + ".part")


def _tag_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.etag")


def missing_bytes(remote: Remote, target: Path) -> int | None:
    """How many bytes are still to be fetched, or None where the size is not known yet."""
    if remote.size is None:
        return None
    for path in (target, part_of(target)):
        if path.exists():
            return max(0, remote.size - path.stat().st_size)
    return remote.size


class Downloader:
    """Fetches files, each to its place or not at all.

    Args:
        http: the client, from :func:`client`.
        progress: hears of every chunk and retry.
        sleep: pauses between attempts, in seconds.
        jitter: draws the pause between half of it and all of it, so that many machines don't come back at once.
    """

    def __init__(
        self,
        http: httpx.Client,
        progress: Progress = silent,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: random.Random | None = None,
    ) -> None:
        self._http = http
        self._progress = progress
        self._sleep = sleep
        self._jitter = jitter or random.Random()

    def fetch(self, remote: Remote, target: Path) -> None:
        """Bring ``remote`` to ``target``; what an earlier call left in its ``.part`` file is used.

        Raises:
            DownloadError: it failed for good, or too often; the part stays for the next call.
            DownloadRefusedError: the server wants a token or refused the one given.
            DownloadUnreachableError: no attempt reached the server.
            DamagedFileError: the bytes are not those expected; they are thrown away.
            NoSpaceError: the disk is full; the part stays.
        """
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part, tag = part_of(target), _tag_of(target)
        resumed = part.exists() and part.stat().st_size > 0
        remote = self._complete(remote, part, tag)
        if reason := self._mismatch(remote, part):
            part.unlink()
            tag.unlink(missing_ok=True)
            if resumed:
                self._progress(Step(Phase.retrying, remote.label, 0, remote.size, "the resumed part did not fit"))
                remote = self._complete(remote, part, tag)
                reason = self._mismatch(remote, part)
            if reason:
                part.unlink(missing_ok=True)
                tag.unlink(missing_ok=True)
                raise DamagedFileError(
                    f"{remote.label} arrived damaged", why=reason, fix="try again; if it stays, the source has changed"
                )
        part.rename(target)
        tag.unlink(missing_ok=True)

    def read(self, remote: Remote) -> bytes:
        """A small document, such as a file list, in memory.

        Raises:
            DownloadError: it failed for good, too often, or is larger than 16 MB.
        """
        return self._repeat(remote, lambda: 0, lambda: self._read(remote))

    def _complete(self, remote: Remote, part: Path, tag: Path) -> Remote:
        """Repeat attempts until the part is as long as it should be; returns what is known of the file by then."""
        return self._repeat(remote, lambda: _length(part), lambda: self._attempt(remote, part, tag))

    def _repeat(self, remote: Remote, length: Callable[[], int], attempt: Callable[[], T]) -> T:
        failures = 0
        while True:
            before = length()
            try:
                return attempt()
            except _Transient as error:
                failures = 1 if length() > before else failures + 1
                if failures >= (ATTEMPTS_UNREACHED if error.unreachable else ATTEMPTS):
                    kind = DownloadUnreachableError if error.unreachable else DownloadError
                    raise kind(
                        f"cannot fetch {remote.label}",
                        why=f"{error}; gave up after {failures} attempts without progress",
                        fix="run the same command again: it resumes",
                    ) from error
                pause = min(PAUSE_MOST, PAUSE_BASE * 2 ** (failures - 1)) * self._jitter.uniform(0.5, 1.0)
                if error.wait is not None:
                    pause = max(pause, min(error.wait, RETRY_AFTER_MOST))
                note = f"{error}; again in {pause:.1f} s"
                self._progress(Step(Phase.retrying, remote.label, length(), remote.size, note))
                self._sleep(pause)

    @contextlib.contextmanager
    def _open(self, remote: Remote, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        import httpx

        try:
            with self._http.stream("GET", remote.url, headers=dict(headers)) as reply:
                _refuse(reply, remote.label)
                yield reply
        except httpx.TransportError as error:
            raise _transport(error, remote) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DownloadError(f"cannot fetch {remote.label}", why=str(error) or type(error).__name__) from error

    def _read(self, remote: Remote) -> bytes:
        with self._open(remote, remote.headers) as reply:
            data = bytearray()
            for chunk in reply.iter_raw():
                data += chunk
                if len(data) > DOCUMENT_MOST:
                    raise DownloadError(f"cannot read {remote.label}", why="the server's answer does not end")
            return bytes(data)

    def _attempt(self, remote: Remote, part: Path, tag: Path) -> Remote:
        offset = _length(part)
        if remote.size is not None and offset > remote.size:
            part.unlink()
            offset = 0
        if remote.size is not None and offset == remote.size and offset:
            return remote
        headers = dict(remote.headers)
        if offset:
            headers["Range"] = f"bytes={offset}-"
            with contextlib.suppress(FileNotFoundError):
                headers["If-Range"] = tag.read_text(encoding="ascii")
        with self._open(remote, headers) as reply:
            if reply.status_code == 416:
                part.unlink(missing_ok=True)
                raise _Transient("the server could not resume")
            remote = _learn(remote, reply)
            self._receive(remote, reply, part, tag, offset)
        return remote

    def _receive(self, remote: Remote, reply: httpx.Response, part: Path, tag: Path, offset: int) -> None:
        if reply.status_code == 206:
            start, total = _content_range(reply)
            if start != offset:
                part.unlink(missing_ok=True)
                raise _Transient("the server resumed at another place")
        else:
            offset = 0
            length = reply.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        if remote.size is not None and total is not None and total != remote.size:
            part.unlink(missing_ok=True)
            raise DamagedFileError(
                f"{remote.label} has another size at the source",
                why=f"{total} bytes offered, {remote.size} expected",
                fix="the source or the catalogue entry has changed: compare them",
            )
        expected = remote.size if remote.size is not None else total
        etag = reply.headers.get("ETag", "")
        if etag.startswith('"') and etag.isascii():
            tag.write_text(etag, encoding="ascii")
        else:
            tag.unlink(missing_ok=True)
        done = offset
        with full_disk_named(part.parent):
            if expected is not None:
                require_space(part.parent, expected - offset)
            with part.open("ab" if offset else "wb") as file:
                self._progress(Step(Phase.downloading, remote.label, done, expected))
                for chunk in reply.iter_raw():  # no chunk size: a gathered chunk would be lost with the connection
                    done += len(chunk)
                    if expected is not None and done > expected:
                        break
                    file.write(chunk)
                    file.flush()
                    self._progress(Step(Phase.downloading, remote.label, done, expected))
        if expected is not None and done > expected:
            part.unlink()
            raise DamagedFileError(f"{remote.label} is longer than announced", why=f"more than {expected} bytes came")
        if expected is not None and done < expected:
            raise _Transient(f"the connection ended at {readable_size(done)} of {readable_size(expected)}")

    def _mismatch(self, remote: Remote, part: Path) -> str:
        """Why the finished part is not what was asked for; empty where it is."""
        checks: list[tuple[str, Any, str]] = []
        size = part.stat().st_size
        if remote.size is not None and size != remote.size:
            return f"{size} bytes, expected {remote.size}"
        if remote.sha256:
            checks.append(("SHA-256", hashlib.sha256(), remote.sha256))
        if remote.git_sha1:
            checks.append(("git blob id", git_blob(size), remote.git_sha1))
        if not checks:
            return ""
        done = 0
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                for _, digest, _ in checks:
                    digest.update(chunk)
                done += len(chunk)
                self._progress(Step(Phase.verifying, remote.label, done, size))
        wrong = [(kind, digest.hexdigest(), wanted) for kind, digest, wanted in checks if digest.hexdigest() != wanted]
        return "; ".join(f"{kind} is {found}, expected {wanted}" for kind, found, wanted in wrong)


def _refuse(reply: httpx.Response, label: str) -> None:
    """Sort out what is not the asked-for file.

    Raises:
        DownloadRefusedError: 401 and 403.
        DownloadError: any other answer that repeating will not change.
    """
    code = reply.status_code
    if code in (200, 206, 416):
        return
    if code in (401, 403):
        raise DownloadRefusedError(
            f"no access to {label}",
            why=f"the server answered {code} {reply.reason_phrase}",
            fix="accept the model's licence at the hub, and set HF_TOKEN or models.token_file",
        )
    if code in TRANSIENT:
        raise _Transient(f"the server answered {code} {reply.reason_phrase}", wait=_retry_after(reply))
    if code in (404, 410):
        raise DownloadError(
            f"{label} does not exist",
            why=f"the server answered {code} {reply.reason_phrase}",
            fix="check the source in the catalogue entry, and that a token is set if the model is private",
        )
    raise DownloadError(f"cannot fetch {label}", why=f"the server answered {code} {reply.reason_phrase}")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _learn(remote: Remote, reply: httpx.Response) -> Remote:
    """Add the size and checksum that a hub names in its own answer, which may be the one before a redirect.

    Raises:
        DamagedFileError: the hub answers with another revision.
    """
    said = reply.history[0].headers if reply.history else reply.headers
    commit = said.get("X-Repo-Commit")
    if commit is None or remote.commit is None:
        return remote
    if commit != remote.commit:
        raise DamagedFileError(
            f"the hub gave another revision of {remote.label}", why=f"asked for {remote.commit}, got {commit}"
        )
    etag = said.get("X-Linked-Etag", said.get("ETag", "")).removeprefix("W/").strip('"')
    size = said.get("X-Linked-Size", "")
    return replace(
        remote,
        size=remote.size or (int(size) if size.isdecimal() else None),
        sha256=remote.sha256 or (etag if re.fullmatch("[0-9a-f]{64}", etag) else None),
        git_sha1=remote.git_sha1 or (etag if re.fullmatch("[0-9a-f]{40}", etag) else None),
    )


def _retry_after(reply: httpx.Response) -> float | None:
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _content_range(reply: httpx.Response) -> tuple[int, int | None]:
    """Start and total of ``Content-Range: bytes START-END/TOTAL``; -1 where it is not understood."""
    unit, _, rest = reply.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdecimal():
        return -1, None
    return int(start), int(total) if total.isdecimal() else None


def _transport(error: httpx.TransportError, remote: Remote) -> Exception:
    import httpx

    reason = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadUnreachableError(
                f"cannot fetch {remote.label}",
                why=f"the server's certificate is not trusted: {cause.verify_message}",
                fix="set SSL_CERT_FILE to your organisation's certificates",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.UnsupportedProtocol):
        return DownloadError(f"cannot fetch {remote.label}", why=reason, fix="the address must be http:// or https://")
    return _Transient(reason, unreachable=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
