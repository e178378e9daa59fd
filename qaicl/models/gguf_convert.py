"""GGUF to the directory form that a hub carries: float32 safetensors, config and tokenizer. Done once, at pull.

Tensors are dequantised by the ``gguf`` library, a slice at a time, and streamed to disk, so memory stays bounded by the
largest attention projection and not by the model. The tokenizer is built by ``transformers`` from the file's metadata.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qaicl.errors import DamagedFileError, UnsupportedModelError
from qaicl.models.files import full_disk_named, require_space
from qaicl.models.gguf_config import architecture, config, tensor_name
from qaicl.models.progress import Phase, Progress, Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SLICE = 8 << 20
"""Bytes of float32 that are dequantised at a time."""


def convert(source: Path, into: Path, progress: Progress) -> None:
    """Write ``config.json``, ``model.safetensors``, ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        source: the GGUF file.
        into: an existing directory.
        progress: hears of bytes written.

    Raises:
        DamagedFileError: the file is cut off or not GGUF.
        UnsupportedModelError: the architecture, a tensor or its quantisation is not known.
        NoSpaceError: the disk has not enough room.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(source)
        fields = {key: reader.fields[key].contents() for key in reader.fields if not _is_long(key)}
        tensors = list(reader.tensors)
        described = config(fields, {tensor.name for tensor in tensors}, _vocabulary(tensors))
        _weights(tensors, architecture(fields), described, into / "model.safetensors", progress)
    except (ValueError, LookupError, struct.error, OverflowError, UnicodeDecodeError, EOFError) as error:
        raise DamagedFileError(
            f"{source.name} is damaged or not a GGUF file", why=str(error) or type(error).__name__, fix="pull it again"
        ) from error
    (into / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    progress(Step(Phase.converting, "tokenizer.json"))
    _tokenizer(source, into)


def _is_long(key: str) -> bool:
    """The vocabulary: slow to read in Python, and only the tokenizer needs it."""
    return key.startswith("tokenizer.ggml.") and not key.endswith("_id")


def _vocabulary(tensors: list[Any]) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight":
            return int(tensor.shape[1])
    raise DamagedFileError("the GGUF file has no embedding", why="there is no tensor token_embd.weight")


def _weights(tensors: list[Any], family: str, described: dict[str, Any], target: Path, progress: Progress) -> None:
    """Stream all tensors into one safetensors file (format: an 8-byte length, a JSON header, the data)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        start, end = end, end + int(tensor.n_elements) * 4
        name = tensor_name(family, tensor.name, described["num_hidden_layers"])
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    require_space(target.parent, end)
    done = 0
    with full_disk_named(target.parent), target.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for piece in _pieces(tensor, family, described):
                data = piece.astype("<f4", order="C", copy=False).tobytes()
                file.write(data)
                done += len(data)
                progress(Step(Phase.converting, target.name, done, end))
    if done != end:
        raise DamagedFileError("the GGUF file is inconsistent", why=f"its tensors gave {done} bytes, not {end}")


def _pieces(tensor: Any, family: str, described: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
    """A tensor's float32 values in order, a slice of rows at a time."""
    part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
    if family == "llama" and part in ("attn_q", "attn_k"):
        heads = described["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
        yield _unpermute(_dequantise(tensor.data, tensor), heads)
        return
    rows = len(tensor.data)
    step = max(1, SLICE * rows // (int(tensor.n_elements) * 4))
    for first in range(0, rows, step):
        yield _dequantise(tensor.data[first : first + step], tensor)


def _dequantise(data: Any, tensor: Any) -> NDArray[np.float32]:
    import gguf

    try:
        values: NDArray[np.float32] = gguf.dequantize(data, tensor.tensor_type)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"cannot convert the tensor '{tensor.name}'",
            why=f"its quantisation {tensor.tensor_type.name} is not known",
            fix="take another GGUF file of the model, such as Q8_0, or an hf: source",
        ) from error
    return values


def _unpermute(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the order of rows that llama.cpp's rotary embedding wants: pairs (i, i+1) back to halves (i, i+d/2).

    Source: ``LlamaModel.permute`` in llama.cpp's convert_hf_to_gguf.py, inverted.
    """
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(2, 1).reshape(rows, columns)


def _tokenizer(source: Path, into: Path) -> None:
    # Not AutoTokenizer: it reads the whole file three times to find out which class this is.
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(source.parent), gguf_file=source.name)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UnsupportedModelError(
            f"cannot build the tokenizer of {source.name}", why=str(error) or type(error).__name__
        ) from error
    tokenizer.save_pretrained(str(into), save_jinja_files=False)
    path = into / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # The template belongs in this file for every reader; the location flags are of the machine that converted.
    settings["chat_template"] = tokenizer.chat_template
    for key in ("is_local", "local_files_only", "name_or_path"):
        settings.pop(key, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
