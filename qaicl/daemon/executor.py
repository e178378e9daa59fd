"""The compute thread of a node: takes what the brain wants computed, batches it, hands the results back."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qaicl.cluster.node_state import CloseTask, Compute, Computed, Event, Opened, OpenTask, TaskBroke
from qaicl.errors import QaiclError
from qaicl.inference.engine import Engine, TextStream, Work
from qaicl.wire.messages import Token

Order = OpenTask | CloseTask | Compute


@dataclass(slots=True)
class _Running:
    stream: TextStream | None


class Executor:
    """Runs an engine in a thread of its own.

    Args:
        engine: used by this thread alone from ``start`` on.
        deliver: called from the thread with each batch of events; must be thread-safe and quick.
        max_batch: pieces computed in one engine step.
    """

    def __init__(self, engine: Engine, deliver: Callable[[list[Event]], None], max_batch: int = 16) -> None:
        self._engine = engine
        self._deliver = deliver
        self._max_batch = max_batch
        self._orders: deque[Order] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._tasks: dict[str, _Running] = {}
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self.step_seconds = 0.0
        """Moving average of an engine step."""
        self.broken: BaseException | None = None
        """What ended the thread, if something did."""

    def start(self) -> None:
        """Begin to take orders."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, orders: list[Order]) -> None:
        """Queue orders; those of one task are done in this order."""
        with self._wake:
            self._orders.extend(orders)
            self._wake.notify()

    def _run(self) -> None:
        pending: deque[Work] = deque()
        try:
            while True:
                with self._wake:
                    while not self._orders and not pending and not self._stopping:
                        self._wake.wait()
                    if self._stopping:
                        return
                    orders, self._orders = self._orders, deque()
                events: list[Event] = []
                for order in orders:
                    if isinstance(order, Compute):
                        pending.append(order.work)
                    elif isinstance(order, OpenTask):
                        events.append(self._open(order))
                    else:
                        pending = deque(work for work in pending if work.task != order.key)
                        self._close(order.key)
                if pending:
                    events += self._step(self._take(pending))
                if events:
                    self._deliver(events)
        except BaseException as error:
            self.broken = error
            self._deliver([])
            raise

    def _open(self, order: OpenTask) -> Event:
        try:
            prompt = self._engine.encode(order.messages, order.sampling.max_tokens)
            stream: TextStream | None = None
            finish = ""
            if order.is_last:
                stream = self._engine.text(order.sampling)
                for token in order.generated:
                    finish = stream.push(token).finish
                if len(order.generated) >= order.sampling.max_tokens:
                    finish = finish or "length"
            if not finish:
                history = [*prompt, *order.generated]
                capacity = len(prompt) + order.sampling.max_tokens
                self._engine.open(order.key, order.first, order.last, capacity, order.sampling, history)
                self._tasks[order.key] = _Running(stream)
            return Opened(order.key, tuple(prompt), finish)
        except QaiclError as error:
            return _broke(order.key, error)

    def _close(self, key: str) -> None:
        if self._tasks.pop(key, None) is not None:
            self._engine.close_task(key)

    def _take(self, pending: deque[Work]) -> list[Work]:
        """The next batch: at most one piece a task, the rest stays in order."""
        batch: dict[str, Work] = {}
        left: list[Work] = []
        while pending and len(batch) < self._max_batch:
            work = pending.popleft()
            if work.task not in self._tasks:
                continue
            if work.task in batch:
                left.append(work)
            else:
                batch[work.task] = work
        pending.extendleft(reversed(left))
        return list(batch.values())

    def _step(self, batch: list[Work]) -> list[Event]:
        if not batch:
            return []
        begun = time.perf_counter()
        try:
            results = self._engine.step(batch)
        except QaiclError as error:
            return [_broke(work.task, error) for work in batch]
        seconds = time.perf_counter() - begun
        self.step_seconds = seconds if not self.step_seconds else 0.9 * self.step_seconds + 0.1 * seconds
        events: list[Event] = []
        for work, result in zip(batch, results, strict=True):
            if result.error:
                events.append(TaskBroke(work.task, result.error))
                continue
            token: Token | None = None
            stream = self._tasks[work.task].stream
            if result.token is not None and stream is not None:
                step = stream.push(result.token)
                token = Token(result.token, step.text, step.finish)
            events.append(Computed(work.task, work.start, work.sample, result.hidden, token))
        return events


def _broke(key: str, error: QaiclError) -> TaskBroke:
    from qaicl.errors import PromptError

    return TaskBroke(key, error.what, error.why, error.fix, retryable=not isinstance(error, PromptError))
