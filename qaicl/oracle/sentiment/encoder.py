"""BERT's encoder for scoring, in plain torch.

``transformers`` has the same network, and training uses it; importing its model classes costs more processor time than
scoring a week of headlines (``docs/performance.md``). Layers and parameters have the names of ``transformers``, so that
checkpoints and adapters fit, and the operations are the same in the same order: the results are equal bit by bit
(tested). Devlin et al. 2018, arXiv:1810.04805.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from qaicl.errors import DamagedFileError


class Shape(msgspec.Struct, frozen=True):
    """What of a model's ``config.json`` shapes the encoder."""

    model_type: str
    hidden_size: int = 0
    num_attention_heads: int = 1
    num_hidden_layers: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    max_position_embeddings: int = 0
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"

    @property
    def supported(self) -> bool:
        """Whether :class:`Bert` is this network."""
        known = (self.model_type, self.hidden_act, self.position_embedding_type)
        return known == ("bert", "gelu", "absolute")


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding that is not drawn at random: on the meta device that alone would import torch's compiler."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class _Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.word_embeddings = _table(shape.vocab_size, width)
        self.position_embeddings = _table(shape.max_position_embeddings, width)
        self.token_type_embeddings = _table(shape.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=shape.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        hidden = hidden + self.position_embeddings(torch.arange(ids.shape[1]).unsqueeze(0))
        normed: Tensor = self.LayerNorm(hidden)
        return normed


class _SelfAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.num_attention_heads
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return seen.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """A linear layer whose result is added to its block's input and normed."""

    def __init__(self, inner: int, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, hidden: Tensor, block_input: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(hidden) + block_input)
        return normed


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        attention = {"self": _SelfAttention(shape), "output": _Output(shape.hidden_size, shape)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.hidden_size, shape.intermediate_size)})
        self.output = _Output(shape.intermediate_size, shape)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.attention["output"](self.attention["self"](hidden, mask), hidden)
        wide = functional.gelu(self.intermediate["dense"](hidden))
        out: Tensor = self.output(wide, hidden)
        return out


class _Stack(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layer:
            hidden = layer(hidden, mask)
        return hidden


class Bert(nn.Module):
    """The encoder without its pooler; never in training mode, so it has no dropout."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.encoder = _Stack(shape)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """``last_hidden_state`` (batch, tokens, width) for ids and mask, both (batch, tokens) int64."""
        hidden = self.embeddings(input_ids)
        rows, tokens = input_ids.shape
        mask = None if attention_mask.all() else attention_mask.bool()[:, None, None, :].expand(rows, 1, tokens, tokens)
        return SimpleNamespace(last_hidden_state=self.encoder(hidden, mask))


def load_bert(directory: Path, shape: Shape) -> Bert:
    """The encoder with a model directory's weights, float32, frozen.

    Raises:
        DamagedFileError: the weights are broken or do not fit the configuration.
    """
    path = directory / "model.safetensors"
    # On no device: the checkpoint's tensors take the place of weights that are never drawn.
    with torch.device("meta"):
        model = Bert(shape)
    try:
        stored = load_file(path)
        wanted = {name: stored[name].float() for name in model.state_dict()}
        model.load_state_dict(wanted, assign=True)
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise DamagedFileError(
            f"cannot load an encoder from {directory}", why=str(error).splitlines()[0], fix="pull the model again"
        ) from error
    return model.requires_grad_(False).eval()
