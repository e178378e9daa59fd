"""The thread that owns the connection to the store.

Whatever is submitted while a round trip is under way goes out together in the next one: the busier the cluster, the
larger the batches, without any waiting for them to fill.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass

from qaicl.errors import BusyError, QaiclError, StoreError
from qaicl.store.address import Address
from qaicl.store.ops import Op
from qaicl.store.scripts import Scripts
from qaicl.store.session import LOST, Lost, Outcome, Session, no_answer

__all__ = ["Down", "Event", "Lost", "Result", "StoreWorker", "Up"]

RETRY_FIRST = 0.05
RETRY_LAST = 1.0
"""Seconds between two attempts to reach the store."""
IDLE_CHECK = 0.25
"""Seconds after which an idle connection is looked at."""
BATCH = 512
"""Operations in one round trip at most; bounds what is lost with a connection."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an operation. ``Lost`` may have happened; a ``StoreError`` has not."""

    op: Op
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Up:
    """The store answers and takes writes. It may have lost its last ones: verify what matters."""


@dataclass(frozen=True, slots=True)
class Down:
    """The store cannot be used. Everything submitted until the next ``Up`` comes back as ``Lost``.

    Comes again before that ``Up`` only where the reason changes.
    """

    error: QaiclError


Event = Result | Up | Down


class _Bell:
    """Wakes the one who polls its file descriptor; ringing twice is ringing once."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._writer.send(b"!")

    def hush(self) -> None:
        """Call it before looking at what the ringing was for, or a ring in between is lost."""
        if self._reader.fileno() != -1:
            with contextlib.suppress(BlockingIOError):
                self._reader.recv(16)
        self._rung = False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class StoreWorker:
    """A connection to the store that never blocks its user. Operations are carried out in the order of submission.

    ``submit`` and ``drain`` may be called from any thread; poll ``fileno()`` to learn when to ``drain``.

    Args:
        address: where the store is.
        namespace: the prefix of all keys.
        holder: the name that goes with every epoch; empty for those who never lead.
        result_ttl: seconds that an ended request is kept.
        capacity: operations under way at once; more are refused.
    """

    def __init__(
        self, address: Address, namespace: str, holder: str = "", result_ttl: float = 86_400.0, capacity: int = 50_000
    ) -> None:
        self._address = address
        self._session = Session(address, Scripts(namespace, holder, int(result_ttl * 1000)))
        self._capacity = capacity
        self._queue: deque[Op] = deque()
        self._events: deque[Event] = deque()
        self._work = _Bell()
        self._news = _Bell()
        self._poll = select.poll()
        self._poll.register(self._work, select.POLLIN)
        self._stopping = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="store", daemon=True)
        self.round_trips = 0
        self.operations = 0

    def __enter__(self) -> StoreWorker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fileno(self) -> int:
        """Readable when ``drain`` has something."""
        return self._news.fileno()

    def start(self) -> None:
        """Begin to connect; the first event is ``Up`` or ``Down``."""
        self._thread.start()

    def stop(self) -> None:
        """Carry out what is queued, if the store answers, and close the connection; again, it does nothing."""
        if self._stopping:
            return
        self._stopping = True
        self._work.ring()
        if self._thread.ident is not None:
            self._thread.join()
        self._work.close()
        self._news.close()

    def submit(self, op: Op) -> None:
        """Queue an operation; its ``Result`` comes through ``drain``, exactly once. Never waits.

        Raises:
            BusyError: too much is under way.
            StoreError: the worker has been stopped, or has failed.
        """
        if self._stopping or self._failed is not None:
            raise StoreError("the store's worker does not run", why=repr(self._failed) if self._failed else "stopped")
        if len(self._queue) >= self._capacity:
            raise BusyError("the store cannot keep up", retry_after=1.0, why=f"{self._capacity} writes wait")
        self._queue.append(op)
        self._work.ring()

    def drain(self) -> list[Event]:
        """What has happened since the last call; never waits."""
        self._news.hush()
        found: list[Event] = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._events.popleft())
        return found

    # --- the thread ------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._live()
        except BaseException as error:
            self._failed = error
            self._tell(Down(StoreError("the store's worker failed", why=repr(error), fix="restart the daemon")))
            raise
        finally:
            self._session.close()
            self._lose(self._take())

    def _live(self) -> None:
        told, delay = "", RETRY_FIRST
        while not self._stopping:
            try:
                self._session.open()
            except QaiclError as error:
                if error.what != told:
                    told = error.what
                    self._tell(Down(error))
                self._rest(delay)
                delay = min(delay * 2, RETRY_LAST)
                continue
            told, delay = "", RETRY_FIRST
            self._tell(Up())
            error_or_none = self._serve()
            self._session.close()
            if error_or_none is not None:
                told = error_or_none.what
                self._tell(Down(error_or_none))
                self._rest(delay)

    def _serve(self) -> QaiclError | None:
        """Carry out operations until the connection is of no use, or until told to stop."""
        while True:
            batch = self._take(BATCH)
            if not batch:
                if self._stopping:
                    return None
                if not self._wait(IDLE_CHECK) and not self._session.alive():
                    return no_answer(self._address, "it closed the connection")
                continue
            done = self._session.run(batch)
            self.round_trips += 1
            self.operations += len(batch)
            for op, outcome in zip(batch, done.outcomes, strict=True):
                self._events.append(Result(op, outcome))
            if done.down is not None:
                # Its users are told of the results and of the end in this order.
                return done.down
            self._news.ring()

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt; spread out, so that a returning server is not stormed."""
        until = time.monotonic() + seconds * random.uniform(0.5, 1.0)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._lose(self._take())
            self._wait(left)
        self._lose(self._take())

    def _wait(self, seconds: float) -> bool:
        """Until something is submitted; False when nothing was."""
        if not self._poll.poll(seconds * 1000):
            return False
        self._work.hush()
        return True

    def _take(self, most: int | None = None) -> list[Op]:
        taken: list[Op] = []
        with contextlib.suppress(IndexError):
            while most is None or len(taken) < most:
                taken.append(self._queue.popleft())
        return taken

    def _lose(self, operations: list[Op]) -> None:
        if operations:
            self._events.extend(Result(op, LOST) for op in operations)
            self._news.ring()

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._news.ring()
