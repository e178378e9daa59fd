"""Reads single tensors out of a model's safetensors files, without reading the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from qaicl.errors import DamagedFileError, ModelMissingError
from qaicl.inference.config import read_json

_FIX = "run: qaicl model pull"


class Checkpoint:
    """The tensors of one model directory: ``model.safetensors`` or shards with an index.

    Tensors are views of memory-mapped files: untouched pages cost nothing, and processes on one machine share them.

    Raises:
        ModelMissingError: there is no weights file.
        DamagedFileError: a file is cut off or is not safetensors.
    """

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, Any] = {}
        self._of: dict[str, Path] = {}
        for path in self._paths(directory):
            try:
                file: Any = safe_open(path, framework="pt", device="cpu")
                names: list[str] = file.keys()
            except FileNotFoundError as error:
                raise ModelMissingError(f"{path} is missing", fix=_FIX) from error
            except (SafetensorError, OSError) as error:
                raise DamagedFileError(f"cannot read {path}", why=str(error), fix=_FIX) from error
            self._files[str(path)] = file
            self._of.update(dict.fromkeys(names, path))

    @staticmethod
    def _paths(directory: Path) -> list[Path]:
        index = directory / "model.safetensors.index.json"
        if not index.exists():
            return [directory / "model.safetensors"]
        mapping = read_json(index).get("weight_map")
        if not isinstance(mapping, dict):
            raise DamagedFileError(f"cannot read {index}", why="it has no weight_map", fix=_FIX)
        return [directory / name for name in sorted(set(mapping.values()))]

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A tensor of a known shape, in the dtype of the file.

        Raises:
            DamagedFileError: it is missing or has another shape.
        """
        if name not in self._of:
            raise DamagedFileError(f"the model has no tensor {name}", why="the file is not complete", fix=_FIX)
        path = self._of[name]
        try:
            tensor: Tensor = self._files[str(path)].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(f"cannot read {name} in {path}", why=str(error), fix=_FIX) from error
        if tuple(tensor.shape) != shape:
            raise DamagedFileError(
                f"tensor {name} does not fit", why=f"it is {list(tensor.shape)} and must be {list(shape)}", fix=_FIX
            )
        return tensor


def model_digest(directory: Path) -> str:
    """What identifies the weights: the store's digest, or for a directory from elsewhere one of its headers.

    Without a manifest the digest covers names, shapes and offsets of the tensors, file sizes and ``config.json``,
    but not every weight: reading gigabytes at each start would cost more than it tells.
    """
    manifest = directory / "manifest.json"
    if manifest.exists():
        digest = read_json(manifest).get("digest")
        if isinstance(digest, str) and digest:
            return digest
    total = hashlib.sha256()
    for path in sorted([directory / "config.json", *directory.glob("*.safetensors")]):
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            size = 1 << 20 if path.suffix == ".json" else 8 + int.from_bytes(file.read(8), "little")
            file.seek(0)
            total.update(file.read(min(size, 64 << 20)))
    return f"sha256:{total.hexdigest()}"
