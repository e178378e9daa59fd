"""Secrets: read by reference, generated where none is given, and taken out of every text that is shown."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from qaicl.errors import ProvisionError, SecretError


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises:
        ProvisionError: it cannot be written; what was there stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ProvisionError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="check the directory's owner and the free space",
        ) from error


def redis_word(text: str) -> str:
    """A text as one word of Redis's settings or commands."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class SecretStore:
    """The secrets of one cluster, each looked up once.

    Args:
        references: name → ``file:PATH``, ``env:NAME`` or ``prompt``.
        generated: directory for secrets that nobody gave, created 0700.
        ask: asks the person at the terminal; None where there is none.
    """

    def __init__(
        self,
        references: Mapping[str, str],
        generated: Path,
        ask: Callable[[str], str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._references = references
        self._generated = generated
        self._ask = ask
        self._environ = os.environ if environ is None else environ
        self._known: dict[str, str] = {}
        self._guard = threading.Lock()

    def given(self, name: str) -> str | None:
        """The secret, or None where the inventory has no reference to it.

        Raises:
            SecretError: the reference leads nowhere.
        """
        with self._guard:
            if name not in self._known:
                if name not in self._references:
                    return None
                reference = self._references[name]
                value = self._read(name, reference)
                if len(value.splitlines()) != 1:
                    raise SecretError(
                        f"the secret '{name}' is no password",
                        why=f"{reference} holds {'several lines' if value else 'nothing'}",
                        fix="give it one line",
                    )
                self._known[name] = value
            return self._known[name]

    def get(self, name: str) -> str:
        """The secret; one that nobody gave is generated (43 characters, 256 bits) and kept."""
        given = self.given(name)
        if given is not None:
            return given
        with self._guard:
            if name not in self._known:
                path = self._generated / name
                if not path.exists():
                    write_private(path, secrets.token_urlsafe(32).encode())
                self._known[name] = path.read_text(encoding="utf-8").strip()
            return self._known[name]

    def redact(self, text: str) -> str:
        """The text without any secret that was looked up."""
        with self._guard:
            known = sorted(self._known.items(), key=lambda pair: -len(pair[1]))
        for name, value in known:
            if len(value) >= 4:
                text = text.replace(value, f"<secret {name}>")
        return text

    def _read(self, name: str, reference: str) -> str:
        kind, _, where = reference.partition(":")
        if kind == "prompt":
            if self._ask is None:
                raise SecretError(
                    f"the secret '{name}' must be typed in", why="stdin is not a terminal", fix="refer to file: or env:"
                )
            return self._ask(name)
        if kind == "env":
            if where not in self._environ:
                raise SecretError(f"the secret '{name}' is not there", why=f"${where} is not set", fix=f"set {where}")
            return self._environ[where]
        path = Path(where).expanduser()
        try:
            if path.stat().st_mode & 0o077:
                raise SecretError(
                    f"the secret '{name}' can be read by others", why=f"the mode of {path}", fix=f"chmod 600 {path}"
                )
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"the secret '{name}' cannot be read", why=str(error), fix=f"create {path}") from error
