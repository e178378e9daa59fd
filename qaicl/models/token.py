"""The token for the model hub: from the environment or a file that only its owner can read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from qaicl.errors import SettingsError
from qaicl.settings import Settings


def hub_token(settings: Settings, environ: Mapping[str, str] | None = None) -> str:
    """``HF_TOKEN``, or the content of ``models.token_file``; empty where neither is set.

    Raises:
        SettingsError: the file cannot be read, others can read it too, or it holds more than a token.
    """
    environ = os.environ if environ is None else environ
    if token := environ.get("HF_TOKEN", "").strip():
        return _plain(token, "HF_TOKEN")
    if not settings.values.models.token_file:
        return ""
    path = Path(settings.values.models.token_file).expanduser()
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(
                f"{path} can be read by others", why=f"its mode is {mode & 0o777:o}", fix=f"run: chmod 600 {path}"
            )
        return _plain(path.read_text(encoding="utf-8").strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the hub's token from {path}", why=str(error)) from error


def _plain(token: str, where: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{where} does not hold a token", why="a token is one word of plain characters")
    return token
