"""The adapter file: a few megabytes of safetensors, float16, with its card in the header.

Only what reads or writes tensors imports torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from safetensors import SafetensorError, safe_open

from qaicl.errors import DamagedFileError, ModelMissingError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "all-minilm-l6-v2 with the qaicl sentiment adapter"
SHIPPED = Path(__file__).with_name("data") / "adapter.safetensors"


class AdapterCard(msgspec.Struct, frozen=True):
    """What an adapter is and where it comes from."""

    rank: int
    alpha: float
    temperature: float
    """Divisor of the logits."""
    bias: tuple[float, float, float]
    """Added to the divided logits, in the order of `LABELS`; it undoes the class weights of the training loss."""
    base: str
    """Digest of the base encoder (`base_digest`)."""
    recipe: str
    """The training recipe as JSON."""
    data: str
    run: str
    """Digest of base, data and recipe; the adapter's version."""


def base_digest(directory: Path) -> str:
    """SHA-256 of a model directory's weights file, 16 hex digits.

    Raises:
        ModelMissingError: there are no weights.
    """
    path = directory / "model.safetensors"
    if not path.is_file():
        raise ModelMissingError(
            f"no weights in {directory}",
            why="model.safetensors is not there",
            fix="run: qaicl model pull all-minilm-l6-v2",
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def save(path: Path, tensors: dict[str, Tensor], card: AdapterCard) -> None:
    """Write an adapter; the file appears whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    save_file(halves, str(partial), {"card": msgspec.json.encode(card).decode()})
    partial.replace(path)


def read_card(path: Path, base: Path | None = None) -> AdapterCard:
    """An adapter's card.

    Args:
        base: the model directory that the adapter must fit.

    Raises:
        ModelMissingError: there is no such file.
        DamagedFileError: it is not an adapter.
        UnsupportedModelError: it was trained on other weights than those in ``base``.
    """
    if not path.is_file():
        raise ModelMissingError(
            f"no sentiment adapter at {path}", why="the file is not there", fix="run: qaicl oracle train --help"
        )
    try:
        with safe_open(str(path), framework="np") as file:
            card = msgspec.json.decode((file.metadata() or {}).get("card", ""), type=AdapterCard)
    except (SafetensorError, msgspec.MsgspecError) as error:
        raise DamagedFileError(
            f"{path} is not a sentiment adapter", why=str(error), fix="restore the file, or train: qaicl oracle train"
        ) from error
    if base is not None and base_digest(base) != card.base:
        raise UnsupportedModelError(
            f"the sentiment adapter does not fit the model in {base}",
            why=f"it was trained on weights with the digest {card.base}",
            fix="pull all-minilm-l6-v2 again, or train an adapter: qaicl oracle train",
        )
    return card


def load(path: Path, base: Path | None = None) -> tuple[dict[str, Tensor], AdapterCard]:
    """An adapter's tensors (float16) and card; arguments and errors as in `read_card`."""
    card = read_card(path, base)
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118
