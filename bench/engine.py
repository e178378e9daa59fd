"""Decode and prefill speed of the torch engine in each precision, as ratios to transformers in float32.

    python bench/engine.py --threads 2

All contenders take turns in one process, a few steps each, so that a change of the machine's load meets all of them.
A figure is the median over the rounds; a ratio is the median of the rounds' own ratios. With one thread the clock is
the thread's processor time, which other programs on the machine disturb least; with more it is the wall's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qaicl.errors import QaiclError
from qaicl.inference.engine import ChatMessage, Sampling, Work
from qaicl.inference.speed import processor
from qaicl.inference.torch_engine import TorchEngine
from qaicl.settings import Precision

PEER = "transformers float32"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "int4")
STORY = "Once upon a time there was a clock that could only count the minutes which people had wasted. " * 40


class Ours:
    """The engine with the whole model."""

    def __init__(self, directory: Path, precision: Precision, threads: int) -> None:
        self.engine = TorchEngine(
            directory,
            model=directory.name,
            precision=precision,
            threads=threads,
            max_tasks=1,
            memory_limit=None,
            cache_dir=Path(tempfile.mkdtemp(prefix="qaicl-bench-")),
        )
        begun = time.perf_counter()
        self.engine.load(0, self.engine.info.layers - 1)
        self.load_seconds = time.perf_counter() - begun
        self.bytes = self.engine.memory().weights
        self._at = 0
        self._token = 0

    def prefill(self, prompt: list[int]) -> None:
        """Take a prompt and choose the first token."""
        self.engine.close_task("t")
        self.engine.open("t", 0, self.engine.info.layers - 1, len(prompt) + 256, Sampling(), prompt)
        self._push(0, tuple(prompt))
        self._at = len(prompt)

    def decode(self) -> None:
        """One more token."""
        self._push(self._at, (self._token,))
        self._at += 1

    def _push(self, start: int, tokens: tuple[int, ...]) -> None:
        (result,) = self.engine.step([Work("t", start, tokens, sample=True)])
        assert result.token is not None, result.error
        self._token = result.token


class Transformers:
    """The named peer."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        begun = time.perf_counter()
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.load_seconds = time.perf_counter() - begun
        self.bytes = sum(parameter.nbytes for parameter in self._model.parameters())

    def prefill(self, prompt: list[int]) -> None:
        """Take a prompt and choose the first token."""
        self._past = None
        self._push(torch.tensor([prompt]))

    def decode(self) -> None:
        """One more token."""
        self._push(self._next)

    @torch.inference_mode()
    def _push(self, ids: torch.Tensor) -> None:
        done = self._model(ids, past_key_values=self._past, use_cache=True, logits_to_keep=1)
        self._past = done.past_key_values
        self._next = done.logits[:, -1].argmax(-1, keepdim=True)


def timed(call: Callable[[], None], times: int, clock: Callable[[], float]) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(times):
        begun = clock()
        call()
        seconds.append(clock() - begun)
    return statistics.median(seconds)


def smollm2() -> Path:
    """The default model, pulled where it is missing."""
    from qaicl.models import pull
    from qaicl.models.store import Store
    from qaicl.settings import load

    settings = load()
    pull(settings, "smollm2-135m")
    return Store(settings.paths.models(settings.values.models)).open("smollm2-135m")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="a model directory; without it smollm2-135m is pulled")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=12, help="decode steps a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    directory = options.directory or smollm2()

    clock = time.thread_time if options.threads == 1 else time.perf_counter

    contenders: dict[str, Ours | Transformers] = {PEER: Transformers(directory)}
    for precision in PRECISIONS:
        contenders[f"qaicl {precision}"] = Ours(directory, precision, options.threads)
    torch.set_num_threads(options.threads)
    ours = contenders["qaicl float32"]
    assert isinstance(ours, Ours)
    prompt = ours.engine.encode([ChatMessage("user", STORY)], 0)[: options.prompt]

    prefills: dict[str, list[float]] = {name: [] for name in contenders}
    decodes: dict[str, list[float]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        contender.prefill(prompt)
        print(f"ready: {name}", file=sys.stderr)
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            prefills[name].append(timed(lambda contender=contender: contender.prefill(prompt), 1, clock))  # type: ignore[misc]
        for name, contender in contenders.items():
            contender.decode()
            decodes[name].append(timed(contender.decode, options.steps, clock))

    rows = []
    for name, contender in contenders.items():
        rows.append(
            {
                "engine": name,
                "decode_tokens_per_second": round(1 / statistics.median(decodes[name]), 1),
                "decode_ratio": round(ratio(decodes[PEER], decodes[name]), 2),
                "prefill_tokens_per_second": round(len(prompt) / statistics.median(prefills[name])),
                "prefill_ratio": round(ratio(prefills[PEER], prefills[name]), 2),
                "weights_mb": round(contender.bytes / 1e6),
                "load_seconds": round(contender.load_seconds, 2),
            }
        )
    machine = f"{processor()}, {options.threads} threads, torch {torch.__version__}, prompt of {len(prompt)} tokens"
    machine += ", processor time" if options.threads == 1 else ", wall time"
    if options.output == "json":
        print(json.dumps({"version": 1, "machine": machine, "rows": rows}))
        return
    print(machine)
    print(f"{'':22}{'decode tok/s':>14}{'ratio':>8}{'prefill tok/s':>15}{'ratio':>8}{'weights MB':>12}{'load s':>8}")
    for row in rows:
        print(
            f"{row['engine']:22}{row['decode_tokens_per_second']:>14}{row['decode_ratio']:>8}"
            f"{row['prefill_tokens_per_second']:>15}{row['prefill_ratio']:>8}"
            f"{row['weights_mb']:>12}{row['load_seconds']:>8}"
        )


def ratio(peer: list[float], own: list[float]) -> float:
    """How many times as fast as the peer: the median over rounds."""
    return statistics.median(theirs / ours for theirs, ours in zip(peer, own, strict=True))


if __name__ == "__main__":
    try:
        main()
    except QaiclError as error:
        sys.exit(f"error: {error}")
