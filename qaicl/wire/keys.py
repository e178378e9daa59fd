"""CURVE keys: made once, kept secret, and the list of those that are let in.

Files are certificates as ``zmq.auth`` writes them: ``<name>.key`` is public, ``<name>.key_secret`` holds both halves
and belongs to its owner alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth

from qaicl.errors import NotAuthorisedError, WireError

ROLES = ("orchestrator", "node", "client")
KEY_LENGTH = 40
"""Characters of a Z85 key, which stand for 32 bytes (ZeroMQ RFC 32)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves of a CURVE key in Z85; the secret is kept out of ``repr``."""

    public: str
    secret: str = field(repr=False)


def make_keypair(directory: Path, name: str) -> KeyPair:
    """Write ``<name>.key`` and ``<name>.key_secret`` into a directory, replacing older ones.

    The secret file has mode 0600 before the first byte is in it, and each file appears whole or not at all.

    Raises:
        WireError: the directory cannot be written to.
    """
    public, secret = (half.decode("ascii") for half in zmq.curve_keypair())
    body = f'metadata\n    name = {name}\ncurve\n    public-key = "{public}"\n'
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(directory / f"{name}.key_secret", f'{body}    secret-key = "{secret}"\n', 0o600)
        _write(directory / f"{name}.key", body, 0o644)
    except OSError as error:
        raise WireError(
            f"cannot write the key '{name}' into {directory}",
            why=error.strerror or str(error),
            fix="check the directory's owner and the free space",
        ) from error
    return KeyPair(public, secret)


def _write(path: Path, text: str, mode: int) -> None:
    # mkstemp creates 0600, so that a secret is never readable by others, not even for a moment.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def load_secret(path: Path) -> KeyPair:
    """Read a secret certificate.

    Raises:
        NotAuthorisedError: the file is missing, readable by others, or not a certificate.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise NotAuthorisedError(
                f"the key {path} can be read by others", why=f"its mode is {mode:04o}", fix=f"run: chmod 600 {path}"
            )
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise NotAuthorisedError(
            f"cannot read the key {path}",
            why=getattr(error, "strerror", None) or str(error),
            fix="make a new one, or copy it from the machine that has it",
        ) from error
    if secret is None or len(public) != KEY_LENGTH or len(secret) != KEY_LENGTH:
        raise NotAuthorisedError(
            f"{path} is not a secret key",
            why=f"it must hold a public and a secret key of {KEY_LENGTH} characters each",
            fix="copy the file that ends in .key_secret",
        )
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


_Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(slots=True)
class _Listed:
    signature: _Signature = ()
    keys: dict[str, str] = field(default_factory=dict)
    """Public key to the name of its file."""


class AllowList:
    """The public keys that are let in, by role: ``<directory>/<role>/<name>.key``.

    A file that is added, replaced or removed counts from the next question on. A file that is not a certificate lets
    nobody in and is logged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._listed: dict[str, _Listed] = {}

    def allows(self, role: str, public_key: str) -> bool:
        """May this key speak in this role?"""
        return self.name(role, public_key) is not None

    def name(self, role: str, public_key: str) -> str | None:
        """The name under which a key is listed for a role, if it is."""
        return self._read(role).keys.get(public_key)

    def _read(self, role: str) -> _Listed:
        # A daemon's main thread and its ZAP thread may both ask: a new value replaces the old one in one assignment.
        listed = self._listed.get(role, _Listed())
        directory = self._directory / role
        signature = _signature(directory)
        if signature != listed.signature:
            listed = _Listed(signature)
            for name, *_ in signature:
                path = directory / name
                try:
                    public, _secret = zmq.auth.load_certificate(path)
                    listed.keys[public.decode("ascii")] = path.stem
                except (OSError, ValueError) as error:
                    log.warning("cannot read the allowed key %s: %s", path, error)
            self._listed[role] = listed
        return listed


def _signature(directory: Path) -> _Signature:
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".key") and not entry.name.startswith("."):
                    status = entry.stat()
                    found.append((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError:
        # No such directory or one that vanished while it was read: nobody is allowed.
        return ()
    return tuple(sorted(found))
