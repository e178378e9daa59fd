"""How fast this machine decodes, measured once and kept on disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from qaicl.inference.attention import make_span
from qaicl.inference.cache import KvSlot
from qaicl.inference.config import ModelConfig
from qaicl.inference.engine import Speed
from qaicl.inference.model import Batch, DecoderLayer, Embedding, Head
from qaicl.inference.precision import Chosen, Numerics, numerics
from qaicl.inference.rope import RotaryTable
from qaicl.inference.weights import Checkpoint

_log = logging.getLogger(__name__)
_MORE_THAN_A_CACHE = 64 << 20
"""Weights that one timed pass reads, bytes: a single layer again and again would be timed out of the L3 cache."""
_POSITION = 64
_ROUNDS = 9
_WORTH_ROUNDING = 0.9
"""``auto`` leaves float32 only for a precision that takes less than this share of its time."""


@torch.inference_mode()
def time_decode(config: ModelConfig, checkpoint: Checkpoint, as_: Numerics) -> Speed:
    """Time decode steps at position 64: medians over nine rounds, after two to warm up."""
    count = max(1, min(config.layers, _MORE_THAN_A_CACHE // max(1, as_.layer_bytes(config))))
    layers = [DecoderLayer(config, checkpoint, at, as_.make, as_.dtype, as_.device) for at in range(count)]
    embedding = Embedding(config, checkpoint, as_.dtype, as_.device)
    head = Head(config, checkpoint, as_.make, as_.dtype, as_.device)
    rotary = RotaryTable(config.rope, config.head_dim, as_.dtype, as_.device)
    slot = KvSlot(count, config.kv_heads, _POSITION + 1, config.head_dim, as_.dtype, as_.device)
    slot.keys.zero_()
    slot.values.zero_()
    inside, ends = [], []
    for _ in range(2 + _ROUNDS):
        begun = time.perf_counter()
        x = embedding([0])
        embedded = time.perf_counter()
        cos, sin = rotary.rows([_POSITION])
        batch = Batch(cos, sin, (make_span(slot, _POSITION, 0, 1, config.heads // config.kv_heads, x),))
        for at, layer in enumerate(layers):
            layer(x, batch, at)
        if as_.device.type == "cuda":
            torch.cuda.synchronize()
        passed = time.perf_counter()
        head(x)
        done = time.perf_counter()
        inside.append((passed - embedded) / count)
        ends.append(done - passed + embedded - begun)
    return Speed(statistics.median(inside[2:]), statistics.median(ends[2:]))


class SpeedCache:
    """Measurements on disk, one file for each model, precision, thread count and machine.

    A lock lets one process at a time measure: two that measured together would slow each other, and the second finds
    the first one's result.
    """

    def __init__(self, directory: Path, digest: str, threads: int) -> None:
        self._directory = directory
        self._key = {
            "digest": digest,
            "threads": threads,
            "machine": platform.node(),
            "processor": processor(),
            "torch": str(str(torch.__version__)),
        }

    def get(self, precision: Chosen, measure: Callable[[], Speed]) -> Speed:
        """The kept measurement, or a new one that is kept, unless the directory cannot be written."""
        key = {**self._key, "precision": precision}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        path = self._directory / f"speed-{name}.json"
        if (kept := _read(path)) is not None:
            return kept
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with _locked(self._directory / "speed.lock"):
                if (kept := _read(path)) is not None:
                    return kept
                speed = measure()
                partial = path.with_suffix(f".{os.getpid()}")
                partial.write_bytes(msgspec.json.encode({"key": key, "speed": speed}))
                partial.replace(path)
                return speed
        except OSError as error:
            _log.warning("cannot keep measurements in %s: %s", self._directory, error)
            return measure()


def fastest(config: ModelConfig, checkpoint: Checkpoint, device: torch.device, cache: SpeedCache) -> Chosen:
    """The precision that ``auto`` stands for.

    On a GPU bfloat16, or float16 where it has none. On a CPU the fastest measured of float32, bfloat16 and int8;
    float32 where rounding saves less than a tenth. int4 rounds too much to be chosen unasked.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    seconds: dict[Chosen, float] = {}
    candidates: tuple[Chosen, ...] = ("float32", "bfloat16", "int8")
    for name in candidates:
        speed = cache.get(name, lambda name=name: time_decode(config, checkpoint, numerics(name, device)))  # type: ignore[misc]
        seconds[name] = config.layers * speed.layer_seconds + speed.ends_seconds
    best = min(candidates, key=seconds.__getitem__)
    chosen = best if seconds[best] < _WORTH_ROUNDING * seconds["float32"] else "float32"
    _log.info("precision %s, decode step in ms: %s", chosen, {name: round(1e3 * s, 2) for name, s in seconds.items()})
    return chosen


class _Kept(msgspec.Struct):
    key: dict[str, Any]
    speed: Speed


def _read(path: Path) -> Speed | None:
    """A kept measurement; one that is absent or unreadable is measured again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept).speed
    except (OSError, msgspec.DecodeError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def processor() -> str:
    """The CPU's name and instruction set as torch uses it."""
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"
