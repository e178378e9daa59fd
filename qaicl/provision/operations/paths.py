"""The state of a path, shared by the operations that write files."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from qaicl.provision.operations.base import Command, Found, Probe, quote

SHOWN = 262_144
"""Bytes up to which a file's content is read for a diff."""


@dataclass(frozen=True)
class PathState:
    """A path as it is found; ``kind`` is ``file``, ``directory``, ``link``, ``other`` or empty where nothing is."""

    kind: str = ""
    mode: str = ""
    owner: str = ""
    group: str = ""
    size: int = 0
    sha256: str = ""
    content: bytes = b""

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


_KINDS = {
    "regular file": "file",
    "regular empty file": "file",
    "directory": "directory",
    "symbolic link": "link",
}


def path_probe(path: str) -> Probe:
    """Asks for everything about a path."""
    return Probe(
        f"path:{path}",
        f"p={quote(path)}; stat -c '%F|%a|%U|%G|%s' \"$p\" || exit 3; "
        'if [ -f "$p" ] && [ ! -L "$p" ]; then sha256sum < "$p" | cut -c1-64; '
        f'[ "$(stat -c %s "$p")" -gt {SHOWN} ] || base64 -w0 "$p"; '
        'elif [ -L "$p" ]; then readlink "$p"; fi',
    )


def parse_path(found: Found) -> PathState:
    """The probe's answer; a link's target is its content."""
    if found.status != 0:
        return PathState()
    first, _, rest = found.stdout.partition("\n")
    kind_text, mode, owner, group, size = first.split("|")
    kind = _KINDS.get(kind_text, "other")
    if kind == "link":
        return PathState(kind, mode, owner, group, int(size), content=rest.strip().encode())
    sha256, _, content = rest.partition("\n")
    return PathState(kind, mode, owner, group, int(size), sha256, base64.b64decode(content))


def write_command(path: str, content: bytes, mode: str, owner: str, group: str) -> Command:
    """Replace a file at once: a reader sees the old content or the new, also when the connection breaks."""
    script = (
        "set -e; umask 077\n"
        f'p={quote(path)}; t=$(mktemp "$(dirname "$p")/.qaicl.XXXXXX"); trap \'rm -f "$t"\' EXIT\n'
        f'cat > "$t"; [ "$(stat -c %s "$t")" -eq {len(content)} ] || {{ echo "content cut short" >&2; exit 74; }}\n'
        f'chown {quote(owner)}:{quote(group)} "$t"; chmod {mode} "$t"; mv -fT "$t" "$p"'
    )
    return Command(script, stdin=content)
