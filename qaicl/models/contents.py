"""Whether a directory holds a model that can be opened, checked before it lands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qaicl.errors import DamagedFileError, UnsupportedModelError

CODE_OR_PICKLE = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so", ".pyc"})
"""Files that would run code when loaded; a model never needs them here."""


def check_contents(directory: Path, family: str) -> None:
    """Look at config, weights and tokenizer.

    Args:
        directory: the model's files.
        family: what the catalogue says that it is.

    Raises:
        DamagedFileError: a part is missing or cannot be read.
        UnsupportedModelError: it is of another family.
    """
    described = _json(directory / "config.json")
    found = described.get("model_type")
    if found != family:
        raise UnsupportedModelError(
            f"this is a '{found}' model, not a '{family}' model",
            why="config.json and the catalogue entry disagree",
            fix="correct 'family' in the catalogue entry",
        )
    _json(directory / "tokenizer.json")
    _check_weights(directory)


def _check_weights(directory: Path) -> None:
    import safetensors

    index = directory / "model.safetensors.index.json"
    if index.exists():
        table = _json(index).get("weight_map")
        shards = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    else:
        shards = ["model.safetensors"]
    for shard in shards:
        if not (directory / shard).is_file():
            raise DamagedFileError(f"the model has no {shard}", why="a model is safetensors files or one GGUF file")
        try:
            with safetensors.safe_open(directory / shard, framework="np") as weights:
                empty = not weights.keys()
        except (safetensors.SafetensorError, OSError) as error:
            raise DamagedFileError(f"cannot read {shard}", why=str(error), fix="pull it again") from error
        if empty:
            raise DamagedFileError(f"{shard} holds no tensor")


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedFileError(f"the model has no {path.name}", why="its source did not deliver one") from error
    except (ValueError, OSError) as error:
        raise DamagedFileError(f"cannot read {path.name}", why=str(error), fix="pull it again") from error
    if not isinstance(table, dict):
        raise DamagedFileError(f"cannot read {path.name}", why="it is not a JSON object")
    return table
