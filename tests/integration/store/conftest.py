"""A real server for all tests of a module, and a namespace for each test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from qaicl.settings import StoreSettings
from qaicl.store.address import Address
from qaicl.store.embedded import EmbeddedValkey
from qaicl.store.ops import Op
from qaicl.store.scripts import Scripts
from qaicl.store.session import Session
from qaicl.store.writer import Down, Event, Result, StoreWorker, Up

PATIENCE = 15.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def address(valkey: EmbeddedValkey) -> Address:
    return Address.parse(StoreSettings(url=valkey.url))


@pytest.fixture
def namespace() -> str:
    return f"test-{next(_numbers)}"


@pytest.fixture
def open_as(address: Address, namespace: str) -> Iterator[Callable[[str], Session]]:
    """Open a session of the test's namespace that speaks as a holder."""
    opened: list[Session] = []

    def open_as(holder: str) -> Session:
        session = Session(address, Scripts(namespace, holder))
        session.open()
        opened.append(session)
        return session

    yield open_as
    for session in opened:
        session.close()


@pytest.fixture
def store(open_as: Callable[[str], Session]) -> Session:
    return open_as("o-1")


@dataclass
class Listener:
    """Collects what a worker reports."""

    worker: StoreWorker
    events: list[Event] = field(default_factory=list)

    def until(self, enough: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while True:
            self.events += self.worker.drain()
            if enough():
                return
            assert time.monotonic() < end, f"not within {seconds} s: {what}; last: {self.events[-5:]}"
            time.sleep(0.002)

    def until_up(self, times: int = 1) -> None:
        self.until(lambda: sum(isinstance(event, Up) for event in self.events) >= times, f"up {times} times")

    def until_down(self, times: int = 1) -> Down:
        self.until(lambda: len(self.downs) >= times, f"down {times} times")
        return self.downs[-1]

    @property
    def downs(self) -> list[Down]:
        return [event for event in self.events if isinstance(event, Down)]

    @property
    def results(self) -> list[Result]:
        return [event for event in self.events if isinstance(event, Result)]

    def ask(self, op: Op) -> object:
        """Submit and wait for what becomes of it."""
        before = len(self.results)
        self.worker.submit(op)
        self.until(lambda: len(self.results) > before, f"a result of {op}")
        assert self.results[before].op is op
        return self.results[before].outcome


@pytest.fixture
def listen(address: Address, namespace: str) -> Iterator[Callable[..., Listener]]:
    """Start a worker, by default at the module's server, and listen to it."""
    started: list[StoreWorker] = []

    def listen(at: Address | None = None, capacity: int = 50_000) -> Listener:
        worker = StoreWorker(at or address, namespace, "o-1", capacity=capacity)
        worker.start()
        started.append(worker)
        return Listener(worker)

    yield listen
    for worker in started:
        worker.stop()
