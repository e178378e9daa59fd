"""API keys: from the environment, or from a file that only its owner may read. Never from settings or arguments."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from qaicl.errors import SettingsError
from qaicl.settings import OracleSettings, Paths

VARIABLES = {"coingecko": "COINGECKO_API_KEY", "newsapi": "NEWSAPI_KEY"}
"""Source to the environment variable that holds its key."""


def load_keys(
    settings: OracleSettings, paths: Paths, context: str, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Source to key, for the sources that have one.

    The file is ``oracle.keys_file``, or ``oracle-keys.toml`` in the context's directory: ``newsapi = "..."``.

    Raises:
        SettingsError: others may read the file, it is not TOML, or it names a source without a key.
    """
    environ = os.environ if environ is None else environ
    path = Path(settings.keys_file).expanduser() if settings.keys_file else paths.context(context) / "oracle-keys.toml"
    keys = _from_file(path, required=bool(settings.keys_file))
    return keys | {source: environ[name] for source, name in VARIABLES.items() if environ.get(name)}


def _from_file(path: Path, required: bool) -> dict[str, str]:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(f"others may read {path}", why="it holds API keys", fix=f"run: chmod 600 {path}")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise SettingsError(f"{path} is missing", why="oracle.keys_file names it", fix="create it, mode 600") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}", why=error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # The decoder's message may quote the line, and with it the key.
        raise SettingsError(f"cannot read {path}", why="it is not TOML", fix='write: newsapi = "..."') from error
    for source, key in table.items():
        if source not in VARIABLES or not isinstance(key, str):
            raise SettingsError(
                f"{path} names '{source}'", why=f"keys are for {', '.join(VARIABLES)}", fix='write: newsapi = "..."'
            )
    return table
