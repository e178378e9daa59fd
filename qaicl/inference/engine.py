"""What the node daemon asks of an inference engine.

An engine runs a contiguous range of a model's layers for several requests at once. The daemon calls it from one
compute thread. ``torch`` is the default; ``echo`` needs no model and serves tests and benchmarks of the cluster
around it. An engine that runs whole models elsewhere can only be opened with every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import msgspec


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the next token is chosen; a pure function of (logits, history, seed, position).

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 are off, ``repetition_penalty`` 1 is off. Numbers out of
    range are refused where a message is decoded.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    seed: int = 0
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 256
    stop: tuple[str, ...] = ()


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a conversation; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine runs. ``digest`` identifies the weights, ``layers`` counts decoder layers."""

    model: str
    digest: str
    family: str
    precision: str
    layers: int
    hidden_size: int
    context_length: int
    layer_bytes: int
    """Memory of one decoder layer's weights, bytes."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Hidden states on their way between stages: row-major [positions, hidden_size]."""

    data: bytes | memoryview
    dtype: str
    positions: int


@dataclass(frozen=True, slots=True)
class Work:
    """One request's next piece for a stage.

    ``start`` is the position of the first element: the number of positions that the stage has seen, or less, which
    takes the stage back to there (a replay after another stage has died). The first stage gets ``tokens``, every other
    ``hidden``. ``sample`` asks the last stage for the token that follows the last position.
    """

    task: str
    start: int
    tokens: tuple[int, ...] = ()
    hidden: Activation | None = None
    sample: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a stage made of one ``Work``: ``hidden`` for the next stage, or the sampled ``token``.

    ``error`` is set where only this request failed, and the others of the batch did not.
    """

    task: str
    hidden: Activation | None = None
    token: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class TextStep:
    """What one more token adds. ``text`` is new visible text; ``finish`` is "", "stop" or "length"."""

    text: str
    finish: str = ""


class TextStream(Protocol):
    """Turns token ids into text, one at a time; a pure function of the ids given so far.

    Incomplete UTF-8 and a possible beginning of a stop string are held back until they are decided; the step that
    finishes releases what is held back, less the stop string.
    """

    def push(self, token: int) -> TextStep:
        """Add one generated token."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: weights loaded, KV cache in use, and what is still free for this engine."""

    weights: int = 0
    cache: int = 0
    free: int = 0


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured on this machine: seconds for one decode step of one layer, and of embedding plus head."""

    layer_seconds: float
    ends_seconds: float
    details: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Runs stages of one model. Not thread-safe: one caller."""

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        ...

    def encode(self, messages: Sequence[ChatMessage], max_tokens: int) -> list[int]:
        """Token ids of a conversation through the model's chat template.

        Raises:
            PromptError: empty, or with ``max_tokens`` longer than the context.
        """
        ...

    def text(self, sampling: Sampling) -> TextStream:
        """A fresh stream for one request."""
        ...

    def load(self, first: int, last: int) -> None:
        """Have layers ``first..last`` (inclusive) in memory, with embedding or head where they are the ends.

        Raises:
            NoCapacityError: they do not fit.
        """
        ...

    def loaded(self) -> tuple[int, ...]:
        """The layers in memory."""
        ...

    def open(self, task: str, first: int, last: int, capacity: int, sampling: Sampling, history: Sequence[int]) -> None:
        """Reserve a KV slot of ``capacity`` positions for a request on the stage ``first..last``.

        ``history`` are prompt and generated ids so far (used by the last stage for penalties and positions of the
        random numbers: the token after a history of n ids is drawn with position n).

        Raises:
            NoCapacityError: no slot or memory is left.
        """
        ...

    def step(self, work: Sequence[Work]) -> list[Result]:
        """Run one batch: any mix of prefill chunks and single decode positions, of any open tasks.

        A task appears at most once in a batch. A result does not depend on what else is in the batch.
        """
        ...

    def close_task(self, task: str) -> None:
        """Free the slot; an unknown task is ignored."""
        ...

    def memory(self) -> Memory:
        """Where the memory is."""
        ...

    def measure(self) -> Speed:
        """Time a decode step; cached on disk for the same model, precision, threads and machine."""
        ...
