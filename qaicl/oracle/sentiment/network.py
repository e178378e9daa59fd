"""The classifier: a sentence encoder with low-rank adapters, mean pooling and a linear head.

Only the adapters and the head are trained and shipped. They follow LoRA (Hu et al. 2021, arXiv:2106.09685): a linear
layer ``W x`` becomes ``W x + (alpha / rank) B A x`` with ``A`` of shape (rank, in) and ``B`` of shape (out, rank), and
for scoring the product is added to ``W`` once, so that an adapted encoder costs no more than a plain one.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from qaicl.errors import ModelMissingError, UnsupportedModelError
from qaicl.oracle.sentiment.encoder import Shape, load_bert

ADAPTED = ("query", "key", "value", "dense")
"""The last name of every linear layer that gets an adapter: attention's four and the feed-forward network's two."""


class LowRank(nn.Module):
    """A frozen linear layer plus a trainable product of rank ``rank``."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, hidden: Tensor) -> Tensor:
        plain: Tensor = self.base(hidden)
        return plain + (hidden @ self.down.T) @ self.up.T * self.scale


class Classifier(nn.Module):
    """Encoder, mean over the real tokens, linear head.

    Args:
        encoder: a ``transformers`` encoder whose output has ``last_hidden_state`` (batch, tokens, width).
        classes: how many labels the head tells apart.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for token ids and attention mask, both (batch, tokens)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def load_encoder(directory: Path) -> tuple[nn.Module, int]:
    """The encoder in a model directory, frozen, float32, and its width.

    Raises:
        ModelMissingError: the directory has no model.
        UnsupportedModelError: it is not an encoder that ``transformers`` can load.
    """
    if not (directory / "config.json").is_file():
        raise ModelMissingError(
            f"no model in {directory}", why="config.json is not there", fix="run: qaicl model pull all-minilm-l6-v2"
        )
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    # The checkpoint also holds a pooler that mean pooling leaves out; the library's report about that is noise.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        encoder: Any = AutoModel.from_pretrained(
            str(directory), local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        )
    except (OSError, ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"cannot load an encoder from {directory}", why=str(error).splitlines()[0], fix="pull the model again"
        ) from error
    finally:
        logging.getLogger("transformers").setLevel(level)
    encoder.requires_grad_(False)
    return encoder, int(encoder.config.hidden_size)


def load_scoring_encoder(directory: Path) -> tuple[nn.Module, int]:
    """The same encoder for scoring alone: without ``transformers`` where it is a plain BERT.

    Raises:
        ModelMissingError, UnsupportedModelError: as in `load_encoder`.
        DamagedFileError: the weights are broken.
    """
    try:
        shape = msgspec.json.decode((directory / "config.json").read_bytes(), type=Shape)
    except (OSError, msgspec.MsgspecError):
        return load_encoder(directory)  # it says what is wrong
    return (load_bert(directory, shape), shape.hidden_size) if shape.supported else load_encoder(directory)


def adapt(encoder: nn.Module, rank: int, alpha: float) -> None:
    """Put a `LowRank` in place of every linear layer named in `ADAPTED`."""
    for parent in list(encoder.modules()):
        if isinstance(parent, LowRank):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name in ADAPTED:
                setattr(parent, name, LowRank(child, rank, alpha))


def trained_tensors(model: Classifier) -> dict[str, Tensor]:
    """The tensors that training changes, by name; what an adapter file holds."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def merge(model: Classifier, tensors: dict[str, Tensor], scale: float) -> None:
    """Add an adapter to a plain classifier's weights.

    Args:
        model: a classifier whose encoder has no `LowRank` layers.
        tensors: as `trained_tensors` names them.
        scale: alpha / rank.

    Raises:
        UnsupportedModelError: the adapter was made for another encoder.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            if name.endswith(".up"):
                continue
            down = name.endswith(".down")
            target = parameters.get(name.removesuffix(".down") + ".weight" if down else name)
            change = (
                tensors[name.removesuffix("down") + "up"].float() @ value.float() * scale if down else value.float()
            )
            if target is None or target.shape != change.shape:
                raise UnsupportedModelError(
                    f"the sentiment adapter does not fit the encoder at {name}",
                    why="it was trained on another base model",
                    fix="set oracle.sentiment_base to the adapter's base model",
                )
            if down:
                target.add_(change)
            else:
                target.copy_(change)
