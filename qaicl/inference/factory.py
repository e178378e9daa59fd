"""Makes the engine that a node runs; only what the chosen engine needs is imported."""

from __future__ import annotations

import os
from pathlib import Path

from qaicl.errors import UnsupportedModelError, UsageError
from qaicl.inference.engine import Engine
from qaicl.settings import Precision


def create_engine(
    directory: Path,
    *,
    model: str,
    precision: Precision,
    threads: int,
    max_tasks: int,
    memory_limit: int | None,
    cache_dir: Path,
) -> Engine:
    """Open a model for serving.

    Args:
        directory: the model's directory in the store; not read for ``echo``.
        model: its name; ``echo`` is the engine without a model.
        precision: of the weights; ``auto`` takes the fastest measured on this machine.
        threads: compute threads.
        max_tasks: how many requests may be open at once.
        memory_limit: bytes for weights and KV cache together; None takes what the machine has free.
        cache_dir: where measurements are kept.

    Raises:
        UnsupportedModelError: the architecture is not one that qaicl runs.
        DamagedFileError: a file of the model is incomplete or unreadable.
    """
    if model == "echo":
        from qaicl.inference.echo import EchoEngine

        return EchoEngine(max_tasks=max_tasks, memory_limit=memory_limit, delay=_echo_delay())
    try:
        from qaicl.inference.torch_engine import TorchEngine
    except ImportError as error:
        raise UnsupportedModelError(
            f"cannot run {model}", why=f"torch does not load: {error}", fix="install torch"
        ) from error
    return TorchEngine(
        directory,
        model=model,
        precision=precision,
        threads=threads,
        max_tasks=max_tasks,
        memory_limit=memory_limit,
        cache_dir=cache_dir,
    )


def _echo_delay() -> float:
    """Seconds a step of the echo engine takes, from ``QAICL_ECHO_DELAY_MS``."""
    text = os.environ.get("QAICL_ECHO_DELAY_MS", "0")
    try:
        delay = float(text) / 1000
    except ValueError:
        delay = -1.0
    if not 0 <= delay < 60:
        raise UsageError(f"QAICL_ECHO_DELAY_MS={text} is not a delay", why="it takes milliseconds, 0 to 60000")
    return delay
