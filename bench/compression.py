"""Does compressing hidden states pay? Real ones, of a real text in a real model, at several depths.

    pip install lz4 zstandard
    .venv/bin/python bench/compression.py MODEL_DIRECTORY

For each codec: the part it saves, and the speed of the network below which compressing, sending and expanding takes
less time than sending alone (saved bits divided by the codec's seconds, one core). "shuffled" sorts the bytes of the
floats by significance first, as Blosc does.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import numpy as np
import torch
import zstandard
from transformers import AutoModelForCausalLM, AutoTokenizer

DOCS = Path(__file__).parent.parent / "docs"
LONGEST = 512

Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def shuffled(codec: Codec, width: int) -> Codec:
    compress, expand = codec

    def there(data: bytes) -> bytes:
        return compress(np.frombuffer(data, np.uint8).reshape(-1, width).T.tobytes())

    def back(data: bytes) -> bytes:
        return np.frombuffer(expand(data), np.uint8).reshape(width, -1).T.tobytes()

    return there, back


def codecs(width: int) -> dict[str, Codec]:
    fast = zstandard.ZstdCompressor(level=1)
    zstd: Codec = (fast.compress, zstandard.ZstdDecompressor().decompress)
    quick: Codec = (lz4.frame.compress, lz4.frame.decompress)
    return {
        "lz4": quick,
        "zstd -1": zstd,
        "lz4 shuffled": shuffled(quick, width),
        "zstd -1 shuffled": shuffled(zstd, width),
    }


def best(work: Callable[[bytes], bytes], data: bytes) -> tuple[float, bytes]:
    seconds, result = 1e9, b""
    for _ in range(7):
        start = time.perf_counter()
        result = work(data)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds, result


def main() -> None:
    torch.set_num_threads(1)
    directory = sys.argv[1]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    tokens = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt").input_ids[:, :LONGEST]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        states = model(tokens, output_hidden_states=True).hidden_states
    depths = (1, len(states) // 2, len(states) - 2)
    print(f"{platform.machine()}, {platform.python_version()}, {Path(directory).name}, {tokens.shape[1]} positions")
    print(f"{'dtype':9} {'codec':17} {'bytes':>9} {'saved':>7} {'compress':>9} {'expand':>9}  pays below")
    for dtype in (torch.float32, torch.bfloat16):
        width = dtype.itemsize
        samples = [states[depth][0].to(dtype).contiguous().view(torch.uint8).numpy().tobytes() for depth in depths]
        for name, (compress, expand) in codecs(width).items():
            size = packed = 0
            there = back = 0.0
            for sample in samples:
                seconds, data = best(compress, sample)
                there += seconds
                size += len(sample)
                packed += len(data)
                seconds, result = best(expand, data)
                back += seconds
                assert result == sample
            saved = size - packed
            pays = f"{saved * 8 / (there + back) / 1e6:8.0f} Mbit/s" if saved > 0 else "never"
            print(
                f"{str(dtype).removeprefix('torch.'):9} {name:17} {size:9} {saved / size:7.1%}"
                f" {size / there / 1e6:5.0f} MB/s {size / back / 1e6:5.0f} MB/s  {pays}"
            )


if __name__ == "__main__":
    main()
