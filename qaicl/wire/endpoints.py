"""A context: which orchestrators there are and with which key to speak to them.

``endpoints.toml`` of a context directory holds one ``[[orchestrator]]`` table each: name, endpoint, public_key.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from qaicl.errors import SettingsError, UnreachableError


class Orchestrator(msgspec.Struct, frozen=True):
    """Where an orchestrator listens, and its CURVE public key (Z85)."""

    name: str
    endpoint: str
    public_key: str


def read(context: Path) -> list[Orchestrator]:
    """The orchestrators of a context directory.

    Raises:
        UnreachableError: there is no such context, so no cluster to talk to.
        SettingsError: the file is damaged.
    """
    path = context / "endpoints.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(table.get("orchestrator", []), list[Orchestrator])
    except FileNotFoundError as error:
        raise UnreachableError(
            f"no cluster is known in the context '{context.name}'",
            why=f"{path} does not exist",
            fix="start one with: qaicl up, or name another with --context",
        ) from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"cannot read {path}", why=str(error), fix="run: qaicl up") from error


def write(context: Path, orchestrators: Sequence[Orchestrator]) -> None:
    """Replace a context's endpoints in one step."""
    blocks = [
        f'[[orchestrator]]\nname = "{entry.name}"\nendpoint = "{entry.endpoint}"\npublic_key = \'{entry.public_key}\'\n'
        for entry in orchestrators
    ]
    context.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=context, prefix=".endpoints-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(blocks))
    Path(temporary).replace(context / "endpoints.toml")
