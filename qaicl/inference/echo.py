"""An engine without a model: tests and benchmarks of the cluster around an engine run on it.

It makes words instead of sense, but it has what makes a split model fragile. Every layer keeps a state of all
positions it has seen (as a KV cache does), the hidden value of a position passes through every layer in order, and
the token depends on the last hidden value, the history and the seed. So a forgotten replay, a skipped layer or a
wrong order of layers changes the text, and a different split of the layers does not.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from qaicl.errors import InferenceError, NoCapacityError, PromptError
from qaicl.inference.engine import (
    Activation,
    ChatMessage,
    EngineInfo,
    Memory,
    Result,
    Sampling,
    Speed,
    TextStream,
    Work,
)
from qaicl.inference.text import GeneratedText

_BYTES = 256
_WORDS = 4096
_CONSONANTS = "bdfgklmnprstvwyz"
_VOWELS = "aeio"
_MASK = (1 << 64) - 1
# Odd multipliers with well spread bits: the 64-bit golden ratio and those of the splitmix64 finaliser
# (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_DTYPE = "uint64"
_LAYER_BYTES = 1 << 20


def _mix(value: int) -> int:
    """The splitmix64 finaliser: a bijection of 64-bit numbers in which every input bit changes half of the output."""
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _word(token: int) -> str:
    """The text of a generated token: a blank and two syllables; of a prompt token: its character."""
    if token < _BYTES:
        return chr(token)
    number = token - _BYTES
    first, second = divmod(number, 64)
    return " " + "".join(_CONSONANTS[syllable // 4] + _VOWELS[syllable % 4] for syllable in (first, second))


class _WordDetokenizer:
    def push(self, token: int) -> str:
        return _word(token)

    def flush(self) -> str:
        return ""


@dataclass(slots=True)
class _Task:
    first: int
    last: int
    capacity: int
    sampling: Sampling
    history: array[int]
    states: list[array[int]]
    """For each layer the state after each position."""
    length: int = 0
    """Positions seen."""
    digests: array[int] | None = None
    """For each position the fingerprint of the history up to it; on the last stage."""


class EchoEngine:
    """Runs ``layers`` pretended layers.

    Args:
        layers: number of pretended decoder layers.
        max_tasks: how many requests may be open at once.
        memory_limit: bytes that the pretended weights (1 MiB a layer) may take; None is no limit.
        delay: seconds that each ``step`` sleeps, to stand for the time of a real model.
        context_length: positions.
    """

    def __init__(
        self,
        *,
        layers: int = 12,
        max_tasks: int = 16,
        memory_limit: int | None = None,
        delay: float = 0.0,
        context_length: int = 8192,
    ) -> None:
        self._max_tasks = max_tasks
        self._memory_limit = memory_limit
        self._delay = delay
        self._loaded: set[int] = set()
        self._tasks: dict[str, _Task] = {}
        self._info = EngineInfo(
            model="echo",
            digest=f"echo-{layers}",
            family="echo",
            precision="float32",
            layers=layers,
            hidden_size=1,
            context_length=context_length,
            layer_bytes=_LAYER_BYTES,
        )

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        return self._info

    def encode(self, messages: Sequence[ChatMessage], max_tokens: int) -> list[int]:
        """The bytes of the conversation, a line each turn.

        Raises:
            PromptError: empty, or with ``max_tokens`` longer than the context.
        """
        if not any(message.content.strip() for message in messages):
            raise PromptError("the prompt is empty", fix="give a question")
        tokens = list("".join(f"{message.role}: {message.content}\n" for message in messages).encode())
        if len(tokens) + max_tokens > self._info.context_length:
            raise PromptError(
                "the prompt is too long",
                why=f"{len(tokens)} tokens and {max_tokens} to generate are more than "
                f"the model's {self._info.context_length}",
                fix="shorten the prompt or ask for fewer tokens",
            )
        return tokens

    def text(self, sampling: Sampling) -> TextStream:
        """A fresh stream for one request."""
        return GeneratedText(_WordDetokenizer(), (), sampling)

    def load(self, first: int, last: int) -> None:
        """Have the layers in (pretended) memory.

        Raises:
            NoCapacityError: they do not fit into ``memory_limit``.
        """
        self._check_range(first, last)
        wanted = self._loaded.union(range(first, last + 1))
        if self._memory_limit is not None and len(wanted) * _LAYER_BYTES > self._memory_limit:
            raise NoCapacityError(
                f"layers {first} to {last} of echo do not fit",
                why=f"{len(wanted)} layers take {len(wanted) * _LAYER_BYTES} bytes, the limit is {self._memory_limit}",
                fix="give the node more memory or fewer layers",
            )
        self._loaded = wanted

    def loaded(self) -> tuple[int, ...]:
        """The layers in memory."""
        return tuple(sorted(self._loaded))

    def open(self, task: str, first: int, last: int, capacity: int, sampling: Sampling, history: Sequence[int]) -> None:
        """Reserve a slot; see ``Engine.open``.

        Raises:
            NoCapacityError: ``max_tasks`` requests are open already.
            InferenceError: the task is open already, or layers are not loaded.
        """
        self._check_range(first, last)
        if task in self._tasks:
            raise InferenceError(f"task {task} is open already", fix="close it first")
        if not self._loaded.issuperset(range(first, last + 1)):
            raise InferenceError(f"layers {first} to {last} are not all loaded", fix="load them first")
        if len(self._tasks) >= self._max_tasks:
            raise NoCapacityError(
                "no slot is left for one more request",
                why=f"{self._max_tasks} requests run here",
                fix="try again when one has ended",
            )
        digests = None
        if last == self._info.layers - 1:
            digests = array("Q")
            digest = 0
            for token in history:
                digest = _mix(digest + token + _GOLDEN & _MASK)
                digests.append(digest)
        states = [array("Q") for _ in range(first, last + 1)]
        self._tasks[task] = _Task(first, last, capacity, sampling, array("q", history), states, 0, digests)

    def step(self, work: Sequence[Work]) -> list[Result]:
        """Run one batch; see ``Engine.step``."""
        if self._delay:
            time.sleep(self._delay)
        return [self._one(item) for item in work]

    def close_task(self, task: str) -> None:
        """Free the slot; an unknown task is ignored."""
        self._tasks.pop(task, None)

    def memory(self) -> Memory:
        """Pretended weights, real bytes of layer states, and what ``memory_limit`` leaves (without one: plenty)."""
        weights = len(self._loaded) * _LAYER_BYTES
        cache = sum(8 * task.length * len(task.states) for task in self._tasks.values())
        limit = 64 * _LAYER_BYTES * self._info.layers if self._memory_limit is None else self._memory_limit
        return Memory(weights, cache, max(0, limit - weights - cache))

    def measure(self) -> Speed:
        """Nominal figures, the same on every machine, so that a placement in a test does not depend on its load."""
        layer = self._delay / self._info.layers + 1e-6
        return Speed(layer, 1e-6, {"delay": self._delay})

    def _check_range(self, first: int, last: int) -> None:
        if not 0 <= first <= last < self._info.layers:
            raise InferenceError(f"there are no layers {first} to {last}", why=f"echo has {self._info.layers}")

    def _one(self, item: Work) -> Result:
        task = self._tasks.get(item.task)
        if task is None:
            return Result(item.task, error=f"task {item.task} is not open")
        if task.first == 0:
            values = [_mix(token + _GOLDEN & _MASK) for token in item.tokens]
        elif item.hidden is None or item.hidden.dtype != _DTYPE or len(item.hidden.data) != 8 * item.hidden.positions:
            return Result(item.task, error="the hidden states do not fit this stage")
        else:
            values = list(struct.unpack(f"<{item.hidden.positions}Q", item.hidden.data))
        if not values:
            return Result(item.task, error="nothing to compute")
        end = item.start + len(values)
        if not 0 <= item.start <= task.length:
            return Result(item.task, error=f"position {item.start} does not follow the {task.length} seen so far")
        if end > task.capacity:
            return Result(item.task, error=f"{end} positions are more than the {task.capacity} reserved")
        for layer, states in enumerate(task.states, task.first + 1):
            del states[item.start :]
            state = states[-1] if states else 0
            for at, value in enumerate(values):
                states.append(state := (state * _MIX_1 + value) & _MASK)
                value = (value * _GOLDEN + state + layer) & _MASK
                values[at] = value ^ (value >> 29)
        task.length = end
        if task.digests is None:
            return Result(item.task, Activation(struct.pack(f"<{len(values)}Q", *values), _DTYPE, len(values)))
        if not item.sample:
            return Result(item.task)
        return self._sample(item, task, task.digests, values[-1])

    def _sample(self, item: Work, task: _Task, digests: array[int], value: int) -> Result:
        position = task.length
        if position > len(task.history):
            return Result(item.task, error=f"the history ends at {len(task.history)}, before position {position}")
        del task.history[position:], digests[position:]
        drawn = _mix((value ^ digests[-1]) + (task.sampling.seed * _MIX_2 + position) * _GOLDEN & _MASK)
        token = _BYTES + drawn % _WORDS
        task.history.append(token)
        digests.append(_mix(digests[-1] + token + _GOLDEN & _MASK))
        return Result(item.task, token=token)
