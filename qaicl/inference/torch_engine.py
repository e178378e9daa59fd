"""The default engine: our own decoder on torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from qaicl.errors import InferenceError, NoCapacityError
from qaicl.inference.attention import make_span
from qaicl.inference.cache import KvSlot
from qaicl.inference.config import read_config
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
from qaicl.inference.model import Batch, DecoderLayer, Embedding, Head
from qaicl.inference.precision import default_device, numerics
from qaicl.inference.rope import RotaryTable
from qaicl.inference.sampling import choose
from qaicl.inference.speed import SpeedCache, fastest, time_decode
from qaicl.inference.tokenizer import ModelTokenizer
from qaicl.inference.weights import Checkpoint, model_digest
from qaicl.settings import Precision

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(slots=True)
class _Task:
    first: int
    last: int
    slot: KvSlot
    sampling: Sampling
    history: list[int]


class TorchEngine:
    """Runs stages of one model directory. See ``create_engine`` for the arguments."""

    def __init__(
        self,
        directory: Path,
        *,
        model: str,
        precision: Precision,
        threads: int,
        max_tasks: int,
        memory_limit: int | None,
        cache_dir: Path,
    ) -> None:
        threads = max(1, threads)
        torch.set_num_threads(threads)
        self._config = read_config(directory)
        self._checkpoint = Checkpoint(directory)
        self._tokenizer = ModelTokenizer(directory, self._config)
        digest = model_digest(directory)
        self._speeds = SpeedCache(cache_dir, digest, threads)
        device = default_device()
        chosen = fastest(self._config, self._checkpoint, device, self._speeds) if precision == "auto" else precision
        self._numerics = numerics(chosen, device)
        self._rotary = RotaryTable(self._config.rope, self._config.head_dim, self._numerics.dtype, device)
        self._max_tasks = max_tasks
        self._memory_limit = memory_limit
        self._layers: dict[int, DecoderLayer] = {}
        self._embedding: Embedding | None = None
        self._head: Head | None = None
        self._tasks: dict[str, _Task] = {}
        self._info = EngineInfo(
            model=model,
            digest=digest,
            family=self._config.family,
            precision=chosen,
            layers=self._config.layers,
            hidden_size=self._config.hidden_size,
            context_length=self._config.context_length,
            layer_bytes=self._numerics.layer_bytes(self._config),
        )

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        return self._info

    def encode(self, messages: Sequence[ChatMessage], max_tokens: int) -> list[int]:
        """Token ids of a conversation; see ``Engine.encode``."""
        return self._tokenizer.encode(messages, max_tokens)

    def text(self, sampling: Sampling) -> TextStream:
        """A fresh stream for one request."""
        return self._tokenizer.text(sampling)

    def load(self, first: int, last: int) -> None:
        """Have a range of layers in memory; see ``Engine.load``.

        Layers that no open request uses make room where memory is short.

        Raises:
            NoCapacityError: they do not fit.
            DamagedFileError: a tensor is missing or has the wrong shape.
        """
        self._check_range(first, last)
        missing = [at for at in range(first, last + 1) if at not in self._layers]
        with_head = last == self._config.layers - 1 and self._head is None
        needed = len(missing) * self._info.layer_bytes
        needed += self._numerics.head_bytes(self._config) if with_head else 0
        if first == 0 and self._embedding is None and self._numerics.device.type != "cpu":
            needed += self._numerics.head_bytes(self._config)
        if needed > self._free():
            self._evict(keep=range(first, last + 1))
        if needed > self._free():
            raise NoCapacityError(
                f"layers {first} to {last} of {self._info.model} do not fit",
                why=f"they take {needed >> 20} MiB more, and {self._free() >> 20} MiB are free",
                fix="give the node fewer layers, a smaller precision or more memory",
            )
        config, as_ = self._config, self._numerics
        with _allocating("the weights"), torch.inference_mode():
            for at in missing:
                self._layers[at] = DecoderLayer(config, self._checkpoint, at, as_.make, as_.dtype, as_.device)
            if first == 0 and self._embedding is None:
                self._embedding = Embedding(config, self._checkpoint, as_.dtype, as_.device)
            if with_head:
                self._head = Head(config, self._checkpoint, as_.make, as_.dtype, as_.device)

    def loaded(self) -> tuple[int, ...]:
        """The layers in memory."""
        return tuple(sorted(self._layers))

    def open(self, task: str, first: int, last: int, capacity: int, sampling: Sampling, history: Sequence[int]) -> None:
        """Reserve a KV slot; see ``Engine.open``.

        Raises:
            NoCapacityError: ``max_tasks`` requests are open, or memory is short.
            InferenceError: the task is open already, layers are not loaded, or the capacity exceeds the context.
        """
        self._check_range(first, last)
        if task in self._tasks:
            raise InferenceError(f"task {task} is open already", fix="close it first")
        if any(at not in self._layers for at in range(first, last + 1)):
            raise InferenceError(f"layers {first} to {last} are not all loaded", fix="load them first")
        if not 0 < capacity <= self._config.context_length:
            raise InferenceError(
                f"cannot reserve {capacity} positions", why=f"the model's context is {self._config.context_length}"
            )
        if len(self._tasks) >= self._max_tasks:
            raise NoCapacityError(
                "no slot is left for one more request",
                why=f"{self._max_tasks} requests run here",
                fix="try again when one has ended",
            )
        config, as_ = self._config, self._numerics
        layers = last - first + 1
        needed = capacity * as_.position_bytes(config, layers)
        if needed > self._free():
            raise NoCapacityError(
                "no memory is left for one more request",
                why=f"{capacity} positions take {needed >> 20} MiB, and {self._free() >> 20} MiB are free",
                fix="try again when one has ended, or ask for fewer tokens",
            )
        with _allocating("a request's keys and values"):
            slot = KvSlot(layers, config.kv_heads, capacity, config.head_dim, as_.dtype, as_.device)
        self._tasks[task] = _Task(first, last, slot, sampling, list(history))

    def step(self, work: Sequence[Work]) -> list[Result]:
        """Run one batch; see ``Engine.step``.

        Requests on the same layers share their matrix products; each attends to its own positions only.

        Raises:
            InferenceError: torch failed; no request of the batch has advanced.
        """
        results: dict[str, Result] = {}
        groups: dict[tuple[int, int], list[tuple[_Task, Work]]] = {}
        for item in work:
            task = self._tasks.get(item.task)
            if task is None:
                results[item.task] = Result(item.task, error=f"task {item.task} is not open")
            elif error := self._obstacle(task, item):
                results[item.task] = Result(item.task, error=error)
            else:
                groups.setdefault((task.first, task.last), []).append((task, item))
        try:
            with torch.inference_mode():
                for members in groups.values():
                    for result in self._run(members):
                        results[result.task] = result
        except (RuntimeError, MemoryError) as error:
            raise InferenceError("the engine failed to compute a step", why=str(error).splitlines()[0]) from error
        return [results[item.task] for item in work]

    def close_task(self, task: str) -> None:
        """Free the slot; an unknown task is ignored."""
        self._tasks.pop(task, None)

    def memory(self) -> Memory:
        """Where the memory is. Weights that lie in mapped files count in full, though processes share them."""
        return Memory(self._weights(), self._cached(), max(0, self._free()))

    def measure(self) -> Speed:
        """Time a decode step; see ``Engine.measure``."""
        return self._speeds.get(
            self._numerics.name, lambda: time_decode(self._config, self._checkpoint, self._numerics)
        )

    def _check_range(self, first: int, last: int) -> None:
        if not 0 <= first <= last < self._config.layers:
            raise InferenceError(
                f"there are no layers {first} to {last}", why=f"{self._info.model} has {self._config.layers}"
            )

    def _weights(self) -> int:
        ends = (end for end in (self._embedding, self._head) if end is not None)
        return sum(layer.nbytes for layer in self._layers.values()) + sum(end.nbytes for end in ends)

    def _cached(self) -> int:
        return sum(task.slot.nbytes for task in self._tasks.values())

    def _free(self) -> int:
        if self._memory_limit is not None:
            return self._memory_limit - self._weights() - self._cached()
        if self._numerics.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._numerics.device)[0])
        return int(psutil.virtual_memory().available)

    def _evict(self, keep: range) -> None:
        """Drop what no open request and not the wanted range needs."""
        needed = set(keep)
        for task in self._tasks.values():
            needed.update(range(task.first, task.last + 1))
        self._layers = {at: layer for at, layer in self._layers.items() if at in needed}
        if 0 not in needed:
            self._embedding = None
        if self._config.layers - 1 not in needed:
            self._head = None

    def _obstacle(self, task: _Task, item: Work) -> str:
        """Why this piece cannot run; empty where it can."""
        if task.first == 0:
            count = len(item.tokens)
            if any(not 0 <= token < self._config.vocabulary for token in item.tokens):
                return f"a token is not in the vocabulary of {self._config.vocabulary}"
        elif item.hidden is None or item.hidden.dtype not in _DTYPES:
            return "hidden states are missing or of an unknown type"
        else:
            count = item.hidden.positions
            wanted = count * self._config.hidden_size * _DTYPES[item.hidden.dtype].itemsize
            if memoryview(item.hidden.data).nbytes != wanted:
                return f"hidden states are {memoryview(item.hidden.data).nbytes} bytes and must be {wanted}"
        end = item.start + count
        if count == 0:
            return "nothing to compute"
        if not 0 <= item.start <= task.slot.length:
            return f"position {item.start} does not follow the {task.slot.length} seen so far"
        if end > task.slot.capacity:
            return f"{end} positions are more than the {task.slot.capacity} reserved"
        if item.sample and task.last == self._config.layers - 1 and end > len(task.history):
            return f"the history ends at {len(task.history)}, before position {end}"
        return ""

    def _run(self, members: list[tuple[_Task, Work]]) -> Iterator[Result]:
        first, last = members[0][0].first, members[0][0].last
        counts = [len(item.tokens) if first == 0 else _positions(item) for _, item in members]
        x = self._input(first, [item for _, item in members], counts)
        positions: list[int] = []
        spans = []
        group = self._config.heads // self._config.kv_heads
        for (task, item), count in zip(members, counts, strict=True):
            spans.append(make_span(task.slot, item.start, len(positions), count, group, x))
            positions.extend(range(item.start, item.start + count))
        batch = Batch(*self._rotary.rows(positions), tuple(spans))
        for at in range(first, last + 1):
            self._layers[at](x, batch, at - first)
        for (task, item), count in zip(members, counts, strict=True):
            task.slot.length = item.start + count
        if last < self._config.layers - 1:
            for (_, item), span in zip(members, spans, strict=True):
                yield Result(item.task, _pack(x[span.row : span.row + span.count]))
        else:
            yield from self._sample(x, members, [span.row + span.count - 1 for span in spans])

    def _input(self, first: int, items: list[Work], counts: list[int]) -> Tensor:
        if first == 0:
            assert self._embedding is not None
            return self._embedding([token for item in items for token in item.tokens])
        as_ = self._numerics
        x = torch.empty(sum(counts), self._config.hidden_size, dtype=as_.dtype, device=as_.device)
        row = 0
        for item, count in zip(items, counts, strict=True):
            assert item.hidden is not None
            _unpack(item.hidden, x[row : row + count])
            row += count
        return x

    def _sample(self, x: Tensor, members: list[tuple[_Task, Work]], rows: list[int]) -> Iterator[Result]:
        wanted = [row for (_, item), row in zip(members, rows, strict=True) if item.sample]
        logits = iter(self._logits(x[wanted])) if wanted else iter(())
        for task, item in members:
            if not item.sample:
                yield Result(item.task)
                continue
            position = task.slot.length
            del task.history[position:]
            try:
                token = choose(next(logits).numpy(), task.history, task.sampling, position)
            except ValueError as error:
                yield Result(item.task, error=str(error))
                continue
            task.history.append(token)
            yield Result(item.task, token=token)

    def _logits(self, x: Tensor) -> Tensor:
        assert self._head is not None
        return self._head(x)


def _positions(item: Work) -> int:
    assert item.hidden is not None
    return item.hidden.positions


def _pack(x: Tensor) -> Activation:
    rows = x.cpu().contiguous()
    return Activation(rows.view(torch.uint8).numpy().data.cast("B"), _NAMES[x.dtype], len(rows))


def _unpack(hidden: Activation, out: Tensor) -> None:
    """Copy received hidden states into rows of a batch, converting their type where it differs."""
    same = out.dtype == _DTYPES[hidden.dtype] and out.device.type == "cpu"
    rows = out if same else torch.empty(out.shape, dtype=_DTYPES[hidden.dtype])
    rows.view(torch.uint8).view(-1).numpy()[:] = np.frombuffer(hidden.data, dtype=np.uint8)
    if not same:
        out.copy_(rows)


@contextmanager
def _allocating(what: str) -> Iterator[None]:
    """Turns the ways in which torch reports exhausted memory into one error."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise NoCapacityError(f"no memory for {what}", why=str(error), fix="give the node fewer layers") from error
    except RuntimeError as error:
        if "alloc" not in str(error):
            raise
        raise NoCapacityError(f"no memory for {what}", why=str(error), fix="give the node fewer layers") from error
