"""What a GGUF file says about a model, as the ``config.json`` that a hub would carry."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from qaicl.errors import DamagedFileError, UnsupportedModelError

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BIASED = {"qwen2": {"attn_q", "attn_k", "attn_v"}}
_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")


def tensor_name(family: str, name: str, layers: int) -> str:
    """The hub's name of a GGUF tensor.

    Raises:
        UnsupportedModelError: the family has no such tensor, so running without it would give wrong answers.
    """
    if name in _TOP:
        return _TOP[name]
    match = _BLOCK.fullmatch(name)
    if match:
        layer, part, kind = int(match[1]), match[2], match[3]
        normed = part in ("attn_q_norm", "attn_k_norm")
        known = part in _LAYER and (kind == "weight" or part in _BIASED.get(family, ()))
        if known and layer < layers and (not normed or family == "qwen3"):
            return f"model.layers.{layer}.{_LAYER[part]}.{kind}"
    raise UnsupportedModelError(
        f"cannot convert the tensor '{name}'", why=f"a {family} model as qaicl runs it has no such tensor"
    )


def architecture(fields: Mapping[str, Any]) -> str:
    """The family.

    Raises:
        UnsupportedModelError: it is not one that can be converted.
    """
    family = str(fields.get("general.architecture", ""))
    if family not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"cannot convert a GGUF file of the architecture '{family}'",
            why=f"known are {', '.join(ARCHITECTURES)}",
            fix="use the model's safetensors files with an hf: or file: source",
        )
    return family


def config(fields: Mapping[str, Any], tensors: Collection[str], vocabulary: int) -> dict[str, Any]:
    """``config.json``.

    Args:
        fields: the file's metadata by key.
        tensors: the names of its tensors.
        vocabulary: rows of the embedding.

    Raises:
        UnsupportedModelError: a feature that the family's plain form has not.
        DamagedFileError: a figure is missing or of the wrong kind.
    """
    family = architecture(fields)

    def number(key: str, default: int | float | None = None) -> int | float:
        value = fields.get(f"{family}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise DamagedFileError("the GGUF file's metadata is incomplete", why=f"{family}.{key} is {value!r}")
        return value

    scaling = fields.get(f"{family}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in tensors:
        raise UnsupportedModelError(
            "cannot convert a GGUF file with scaled rotary embeddings",
            why="the file does not hold the figures that the scaling was made from",
            fix="use the model's safetensors files with an hf: or file: source",
        )
    if fields.get(f"{family}.expert_count", 0):
        raise UnsupportedModelError("cannot convert a mixture of experts", why="qaicl runs dense models")
    heads, width = int(number("attention.head_count")), int(number("embedding_length"))
    head = int(number("attention.key_length", width // heads))
    if number("rope.dimension_count", head) != head:
        raise UnsupportedModelError("cannot convert partly rotated attention", why=f"a head has {head} dimensions")
    described: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_size": width,
        "intermediate_size": int(number("feed_forward_length")),
        "num_hidden_layers": int(number("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(number("attention.head_count_kv", heads)),
        "hidden_act": "silu",
        "max_position_embeddings": int(number("context_length")),
        "rms_norm_eps": float(number("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(number("rope.freq_base", 10000.0)),
        "vocab_size": vocabulary,
        "tie_word_embeddings": "output.weight" not in tensors,
        "torch_dtype": "float32",
    }
    for key, field in (
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "padding_token_id"),
    ):
        value = fields.get(f"tokenizer.ggml.{field}")
        if isinstance(value, int):
            described[key] = value
    return described
