"""The architecture of a model, read from its ``config.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qaicl.errors import DamagedFileError, ModelMissingError, UnsupportedModelError

FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding: base and, where the context was stretched, how.

    ``kind`` is one of "default", "linear", "llama3", "yarn"; ``values`` are its numbers as in ``config.json``.
    """

    theta: float
    kind: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a decoder of the Llama, Qwen2 or Qwen3 family needs to know."""

    family: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int
    norm_eps: float
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_norm: bool
    """Whether queries and keys are normalised per head (Qwen3)."""
    rope: Rope
    end_tokens: tuple[int, ...]

    @property
    def layer_parameters(self) -> int:
        """Number of matrix weights of one decoder layer."""
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's directory.

    Raises:
        ModelMissingError: there is no such file.
        DamagedFileError: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelMissingError(f"{path} is missing", fix="run: qaicl model pull") from error
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"cannot read {path}", why=str(error), fix="run: qaicl model pull") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"cannot read {path}", why="it is not a JSON object", fix="run: qaicl model pull")
    return content


def token_ids(value: Any) -> tuple[int, ...]:
    """``eos_token_id`` as it stands in a file: absent, a number or a list."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)


def read_config(directory: Path) -> ModelConfig:
    """Read ``config.json``.

    Raises:
        UnsupportedModelError: another architecture, or a variant of these three that is not implemented.
        DamagedFileError, ModelMissingError: the file cannot be read.
    """
    raw = read_json(directory / "config.json")
    family = str(raw.get("model_type"))
    _check_supported(raw, family)
    try:
        return _parse(raw, family)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DamagedFileError(
            f"cannot use {directory / 'config.json'}", why=f"{error!r} is missing or wrong", fix="run: qaicl model pull"
        ) from error


def _check_supported(raw: dict[str, Any], family: str) -> None:
    obstacle = ""
    if family not in FAMILIES:
        obstacle = f"its architecture is '{family}', and qaicl runs {', '.join(FAMILIES)}"
    elif raw.get("hidden_act", "silu") != "silu":
        obstacle = f"its activation is '{raw['hidden_act']}'"
    elif raw.get("use_sliding_window"):
        obstacle = "it uses sliding-window attention"
    elif raw.get("quantization_config"):
        obstacle = "its weights are quantised already"
    if obstacle:
        raise UnsupportedModelError("this model cannot be run", why=obstacle, fix="run: qaicl model list")


def _parse(raw: dict[str, Any], family: str) -> ModelConfig:
    heads = int(raw["num_attention_heads"])
    hidden_size = int(raw["hidden_size"])
    attention_bias = bool(raw.get("attention_bias", False))
    config = ModelConfig(
        family=family,
        layers=int(raw["num_hidden_layers"]),
        hidden_size=hidden_size,
        intermediate_size=int(raw["intermediate_size"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or hidden_size // heads),
        vocabulary=int(raw["vocab_size"]),
        context_length=int(raw["max_position_embeddings"]),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        tied=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=family != "qwen2" and attention_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        head_norm=family == "qwen3",
        rope=_rope(raw),
        end_tokens=token_ids(raw.get("eos_token_id")),
    )
    if config.heads % config.kv_heads:
        raise ValueError("num_key_value_heads")
    return config


def _rope(raw: dict[str, Any]) -> Rope:
    """``rope_parameters`` as transformers 5 writes it, or the older ``rope_theta`` and ``rope_scaling``."""
    values: dict[str, Any] = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = str(values.get("rope_type") or values.get("type") or "default")
    if kind not in ("default", "linear", "llama3", "yarn") or values.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedModelError(
            "this model cannot be run", why=f"its rotary embedding is '{kind}'", fix="run: qaicl model list"
        )
    theta = float(values.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
    if kind == "yarn":
        values.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    return Rope(theta, kind, values)
