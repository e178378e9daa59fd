"""The store's thread: order, batches, and what becomes of everything when the server goes away."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from qaicl.errors import BusyError, StoreError
from qaicl.settings import StoreSettings
from qaicl.store import ops
from qaicl.store.address import Address
from qaicl.store.embedded import EmbeddedValkey
from qaicl.store.writer import LOST, Down, Result, StoreWorker, Up

Listen = Callable[..., Any]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server that the test may mistreat."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


def at(server: EmbeddedValkey) -> Address:
    return Address.parse(StoreSettings(url=server.url))


def kill(server: EmbeddedValkey, number: int = signal.SIGKILL) -> None:
    assert server.pid is not None
    os.kill(server.pid, number)
    while number == signal.SIGKILL and server.pid is not None:
        time.sleep(0.001)


# --- while all is well ---------------------------------------------------------------------------


def test_results_come_in_the_order_of_submission_and_in_few_round_trips(listen: Listen) -> None:
    listener = listen()
    listener.until_up()
    submitted: list[ops.Op] = []
    for number in range(500):
        id = f"r-{number}"
        submitted += [ops.Accept(id, b"p", 1), ops.RecordTokens(id, 1, 0, (b"t",)), ops.Finish(id, 1, "done", b"", 1)]
    for op in submitted:
        listener.worker.submit(op)
    listener.until(lambda: len(listener.results) == len(submitted), "all results")
    assert [result.op for result in listener.results] == submitted
    assert [result.outcome for result in listener.results] == [ops.Accepted(), ops.Recorded(1), ops.Finished()] * 500
    assert listener.worker.operations == 1500
    assert listener.worker.round_trips < 500


def test_its_file_descriptor_wakes_a_poller(listen: Listen) -> None:
    worker = listen().worker
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    assert poll.poll(5000)
    assert worker.drain() == [Up()]
    assert poll.poll(0) == []
    worker.submit(ops.List("node"))
    assert poll.poll(5000)
    assert worker.drain() == [Result(ops.List("node"), ops.Listed({}))]
    assert worker.drain() == []


def test_many_threads_may_submit(listen: Listen) -> None:
    listener = listen()
    listener.until_up()

    def submit(name: int) -> None:
        for number in range(100):
            listener.worker.submit(ops.Accept(f"{name}-{number}", b"", 1))

    threads = [threading.Thread(target=submit, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listener.until(lambda: len(listener.results) == 800, "all results")
    assert {result.outcome for result in listener.results} == {ops.Accepted()}
    for name in range(8):
        mine = [result.op.id for result in listener.results if result.op.id.startswith(f"{name}-")]
        assert mine == [f"{name}-{number}" for number in range(100)]


def test_stopping_carries_out_what_is_queued(address: Address, namespace: str, listen: Listen) -> None:
    with StoreWorker(address, namespace) as worker:
        while not worker.drain():
            time.sleep(0.001)
        for number in range(100):
            worker.submit(ops.Accept(f"r-{number}", b"", 1))
    assert len(worker.drain()) == 100
    with pytest.raises(StoreError, match="does not run"):
        worker.submit(ops.List("node"))
    listener = listen()
    listener.until_up()
    page = listener.ask(ops.LoadOpen("", 1000))
    assert len(page.requests) == 100


def test_one_that_never_started_can_be_stopped(address: Address, namespace: str) -> None:
    worker = StoreWorker(address, namespace)
    worker.stop()
    worker.stop()
    assert worker.drain() == []


def test_a_server_that_forgot_the_scripts_is_told_again(listen: Listen, valkey: EmbeddedValkey) -> None:
    listener = listen()
    listener.until_up()
    with redis.Redis(unix_socket_path=str(valkey.socket)) as raw:
        raw.script_flush()
    for number in range(10):
        listener.worker.submit(ops.Accept(f"r-{number}", b"", 1))
        listener.worker.submit(ops.RecordTokens(f"r-{number}", 1, 0, (b"a",)))
    listener.until(lambda: len(listener.results) == 20, "all results")
    assert [result.outcome for result in listener.results] == [ops.Accepted(), ops.Recorded(1)] * 10
    assert listener.downs == []


def test_too_much_at_once_is_refused(own: EmbeddedValkey, listen: Listen) -> None:
    listener = listen(at(own), capacity=100)
    listener.until_up()
    kill(own, signal.SIGSTOP)
    accepted = 0
    with pytest.raises(BusyError) as caught:
        for number in range(5000):
            listener.worker.submit(ops.Accept(f"r-{number}", b"", 1))
            accepted += 1
    assert caught.value.retry_after > 0
    kill(own, signal.SIGCONT)
    listener.until(lambda: len(listener.results) == accepted, "all that was taken is answered")


def test_a_foreign_value_under_a_key_is_an_error_of_that_operation_alone(
    listen: Listen, valkey: EmbeddedValkey, namespace: str
) -> None:
    listener = listen()
    listener.until_up()
    with redis.Redis(unix_socket_path=str(valkey.socket)) as raw:
        raw.set(f"{{{namespace}}}:req:spoilt", "a string, not a hash")
    listener.worker.submit(ops.Accept("good-1", b"", 1))
    listener.worker.submit(ops.Accept("spoilt", b"", 1))
    listener.worker.submit(ops.Accept("good-2", b"", 1))
    listener.until(lambda: len(listener.results) == 3, "all results")
    first, spoilt, last = (result.outcome for result in listener.results)
    assert (first, last) == (ops.Accepted(), ops.Accepted())
    assert isinstance(spoilt, StoreError)
    assert "WRONGTYPE" in spoilt.why
    assert listener.downs == []


# --- when it is not ------------------------------------------------------------------------------


def test_no_server_is_a_clear_error_and_everything_is_lost_at_once(tmp_path: Path, listen: Listen) -> None:
    listener = listen(Address.parse(StoreSettings(url=f"unix://{tmp_path}/none.sock")))
    down = listener.until_down()
    assert isinstance(down.error, StoreError)
    assert "none.sock does not answer" in down.error.what
    assert listener.ask(ops.Acquire("o-1", 1000)) == LOST
    # The same reason is told once, however often it is tried.
    listener.events.clear()
    end = time.monotonic() + 0.4
    listener.until(lambda: time.monotonic() > end, "a while")
    assert listener.downs == []


@pytest.mark.parametrize("idle", [True, False])
def test_a_killed_server_is_noticed_and_its_data_is_there_when_it_returns(
    own: EmbeddedValkey, listen: Listen, idle: bool
) -> None:
    listener = listen(at(own))
    listener.until_up()
    assert listener.ask(ops.Acquire("o-1", 60_000)) == ops.Leased(1, "o-1")
    written = []
    for number in range(200):
        assert listener.ask(ops.Accept(f"r-{number}", b"prompt", 1)) == ops.Accepted()
        assert listener.ask(ops.RecordTokens(f"r-{number}", 1, 0, (b"a", b"b"))) == ops.Recorded(2)
        written.append(f"r-{number}")
    kill(own)
    start = time.monotonic()
    if not idle:
        assert listener.ask(ops.Accept("late", b"", 1)) == LOST
    listener.until_down()
    assert time.monotonic() - start < 1.0
    assert listener.ask(ops.Accept("later", b"", 1)) == LOST
    own.start()
    listener.until_up(2)
    assert listener.ask(ops.Verify(tuple(written))) == ops.Verified(dict.fromkeys(written, ("open", 2)))
    assert listener.ask(ops.Accept("later", b"", 1)) == ops.Accepted()
    assert listener.ask(ops.Renew("o-1", 1, 60_000)) == ops.Leased(1, "o-1")


def test_an_orderly_restart_keeps_everything(own: EmbeddedValkey, listen: Listen) -> None:
    listener = listen(at(own))
    listener.until_up()
    listener.ask(ops.Acquire("o-1", 60_000, floor=6))
    listener.ask(ops.Reaccept("open", 7, b"p", (b"a", b"b")))
    listener.ask(ops.Reaccept("ended", 7, b"p", (b"a",), "done", b"result"))
    listener.ask(ops.Announce("node", "n", "1", b"record", 60_000))
    own.stop()
    listener.until_down()
    own.start()
    listener.until_up(2)
    assert listener.ask(ops.Acquire("o-2", 1000)) == ops.Held(7, "o-1")
    assert listener.ask(ops.Verify(("open", "ended"))) == ops.Verified({"open": ("open", 2), "ended": ("done", 1)})
    assert listener.ask(ops.List("node")) == ops.Listed({"n": b"record"})


def test_a_stopped_server_is_noticed_by_its_silence(
    own: EmbeddedValkey, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qaicl.store.address.ANSWER_SECONDS", 0.3)
    listener = listen(at(own))
    listener.until_up()
    kill(own, signal.SIGSTOP)
    listener.worker.submit(ops.Accept("r", b"", 1))
    assert "does not answer" in listener.until_down().error.what
    assert [result.outcome for result in listener.results] == [LOST]
    kill(own, signal.SIGCONT)
    listener.until_up(2)
    # It was lost, and yet it has happened: a retry finds out.
    assert listener.ask(ops.Accept("r", b"", 1)) == ops.Exists("open")


def test_writes_in_flight_when_the_server_dies_are_answered_once_each(own: EmbeddedValkey, listen: Listen) -> None:
    listener = listen(at(own))
    listener.until_up()
    submitted = 0
    while not listener.downs:
        for _ in range(20):
            listener.worker.submit(ops.Accept(f"r-{submitted}", b"x" * 1000, 1))
            submitted += 1
        if submitted == 2000:
            kill(own)
        listener.events += listener.worker.drain()
        assert submitted < 200_000
    listener.until(lambda: len(listener.results) == submitted, "an outcome of each")
    assert [result.op.id for result in listener.results] == [f"r-{number}" for number in range(submitted)]
    confirmed = [result.op.id for result in listener.results if result.outcome == ops.Accepted()]
    assert len(confirmed) < submitted
    own.start()
    listener.until_up(2)
    verified = listener.ask(ops.Verify(tuple(confirmed)))
    assert all(state == "open" for state, _ in verified.requests.values())


# --- servers that answer and cannot write --------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "mend_it", "what"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "no memory left"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is not the master any more"),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
            "too few replicas",
        ),
    ],
)
def test_a_server_that_cannot_write_is_down_with_the_reason_until_it_can(
    own: EmbeddedValkey, listen: Listen, break_it: tuple[str, ...], mend_it: tuple[str, ...], what: str
) -> None:
    listener = listen(at(own))
    listener.until_up()
    assert listener.ask(ops.Accept("before", b"", 1)) == ops.Accepted()
    with redis.Redis(unix_socket_path=str(own.socket)) as raw:
        raw.execute_command(*break_it)
        assert listener.ask(ops.Accept("during", b"", 1)) == LOST
        error = listener.until_down().error
        assert what in error.what
        assert error.fix
        raw.execute_command(*mend_it)
    listener.until_up(2)
    assert listener.ask(ops.Verify(("before", "during"))) == ops.Verified({"before": ("open", 0), "during": (None, 0)})
    assert listener.ask(ops.Accept("during", b"", 1)) == ops.Accepted()


def test_nothing_is_reported_twice_or_out_of_order(own: EmbeddedValkey, listen: Listen) -> None:
    listener = listen(at(own))
    listener.until_up()
    for times in (2, 3):
        kill(own)
        listener.until_down(times - 1)
        own.start()
        listener.until_up(times)
    told = [event.error.what if isinstance(event, Down) else "up" for event in listener.events]
    assert all(one != next for one, next in pairwise(told)), told
    # Another reason for the same silence (gone, then there and not ready) is told too.
    assert [kind for kind, _ in groupby(type(event) for event in listener.events)] == [Up, Down, Up, Down, Up]
