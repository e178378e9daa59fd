"""Frames that are no messages, keys that are not allowed, more work than fits: nothing crashes, nothing leaks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq

from qaicl.errors import BusyError, NotAuthorisedError, PromptError, UnknownModelError
from qaicl.wire import endpoints, frames, keys, sockets
from qaicl.wire.client import Client
from qaicl.wire.messages import AnyMessage, StatusQuery, StatusReply, Submit
from tests.integration.cluster.conftest import Cluster, collect, make_cluster, spec, wait_for

FRAMES = 100_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAICL_LIMITS_QUEUE", "20")
        yield from make_cluster(nodes=2, orchestrators=1)


def hostile(count: int) -> Iterator[list[bytes]]:
    """Random bytes, cut, mutated and oversized frames, wrong versions, right messages at the wrong door."""
    rng = random.Random(1)
    valid = [b"".join(map(bytes, frames.encode(Submit(spec(max_tokens=1))))), bytes(frames.encode(StatusQuery())[0])]
    names = [kind.__name__.encode() for kind in AnyMessage.__args__]
    for number in range(count):
        kind = number % 8
        base = bytearray(rng.choice(valid))
        if kind == 0:
            yield [rng.randbytes(rng.randint(0, 60))]
        elif kind == 1:
            yield [bytes(base[: rng.randint(0, len(base) - 1)])]
        elif kind == 2:
            for _ in range(3):
                base[rng.randrange(2, len(base))] = rng.randrange(256)
            yield [b"\xff" + bytes(base[1:])]
        elif kind == 3:
            yield [bytes([rng.randrange(2, 256)]) + bytes(base[1:])]
        elif kind == 4:
            yield [b"", rng.randbytes(5), b""]
        elif kind == 5:
            yield [b"\x01\x00" + msgspec.msgpack.encode([rng.choice(names).decode(), rng.randint(0, 9)])]
        elif kind == 6:
            yield [b"\x01\x00" + b"\x91" * 500]
        else:
            yield [b"\x01\x00\xdd\xff\xff\xff\xff" + rng.randbytes(8)]


def flood(cluster: Cluster, endpoint: str, public_key: str, key: str, role_probe: int) -> None:
    context: sockets.Context = zmq.Context()
    pair = keys.load_secret(cluster.context / "keys" / f"{key}.key_secret")
    socket = sockets.dealer(context, endpoint, public_key, pair)
    process = psutil.Process(role_probe)
    try:
        warm_up, measured = 20_000, 0
        for number, parts in enumerate(hostile(FRAMES)):
            assert socket.poll(20_000, zmq.POLLOUT)
            socket.send_multipart(parts)
            while socket.poll(0, zmq.POLLIN):
                socket.recv_multipart()
            if number == warm_up:
                measured = process.memory_info().rss
        assert process.is_running()
        assert process.memory_info().rss - measured < 16 * 1024**2
    finally:
        socket.close(0)
        context.term()


def test_a_hundred_thousand_hostile_frames_at_the_orchestrator(cluster: Cluster) -> None:
    (entry,) = endpoints.read(cluster.context)
    flood(cluster, entry.endpoint, entry.public_key, "client", cluster.pid("orch-1"))
    with cluster.client() as client:
        assert collect(client.ask([spec(max_tokens=3)])).tokens
    log = (cluster.supervisor.settings.paths.run("default") / "daemons" / "orch-1.log").read_text()
    assert '"event":"bad-frame"' in log and '"count":' in log and '"key":' in log


def test_a_hundred_thousand_hostile_frames_at_a_node(cluster: Cluster) -> None:
    node = next(node for node in cluster.status()["nodes"] if node["name"] == "node-1")
    public = keys.load_secret(cluster.context / "keys" / "node-1.key_secret").public
    flood(cluster, node["address"], public, "orch-1", cluster.pid("node-1"))
    wait_for(cluster.all_alive)
    with cluster.client() as client:
        answer = collect(client.ask([spec(mode="split", stages=2)]))
    assert answer.outcome is not None and len(answer.outcome.pipeline) == 2


def test_a_key_that_is_not_allowed_gets_nothing(cluster: Cluster, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    endpoints.write(stranger, endpoints.read(cluster.context))
    keys.make_keypair(stranger / "keys", "client")
    with Client(stranger, patience=8.0) as client, pytest.raises(NotAuthorisedError, match="refuses this key"):
        client.call(StatusQuery(), StatusReply)


def test_a_client_key_gets_nothing_from_a_node(cluster: Cluster) -> None:
    address = next(node["address"] for node in cluster.status()["nodes"])
    public = keys.load_secret(cluster.context / "keys" / "node-1.key_secret").public
    pair = keys.load_secret(cluster.context / "keys" / "client.key_secret")
    context: sockets.Context = zmq.Context()
    socket = sockets.dealer(context, address, public, pair, connect=False)
    monitor = sockets.Monitor(socket)
    socket.connect(address)
    try:
        assert monitor.socket.poll(8000)
        events = wait_for(monitor.events)
        assert events[0].kind is sockets.EventKind.refused
        with pytest.raises(zmq.Again):
            socket.send(b"hello", zmq.DONTWAIT)
    finally:
        monitor.close()
        socket.close(0)
        context.term()


def test_overload_says_busy_and_when_to_come_back(cluster: Cluster) -> None:
    requests = [spec(f"question {number}", max_tokens=200) for number in range(60)]
    with cluster.client() as client, pytest.raises(BusyError) as caught:
        for _ in client.ask(requests):
            pass
    assert caught.value.retry_after >= 1.0
    assert "limit is 20" in caught.value.why
    wait_for(lambda: not cluster.status()["queue"]["running"])
    with cluster.client() as client:
        assert collect(client.ask([spec(max_tokens=3)])).tokens


def test_an_unknown_model_is_refused(cluster: Cluster) -> None:
    request = msgspec.structs.replace(spec(), model="gpt-17")
    with cluster.client() as client, pytest.raises(UnknownModelError, match="gpt-17"):
        collect(client.ask([request]))


def test_an_empty_prompt_is_refused(cluster: Cluster) -> None:
    with cluster.client() as client, pytest.raises(PromptError, match="empty"):
        collect(client.ask([spec("   ")]))


def test_a_prompt_longer_than_the_context_fails_with_its_length(cluster: Cluster) -> None:
    with cluster.client() as client:
        answer = collect(client.ask([spec("x" * 9000)]))
    assert answer.outcome is not None
    assert "too long" in answer.outcome.error and "8192" in answer.outcome.why
    assert not answer.outcome.failovers, "it must not be tried again elsewhere"


def test_memory_stays_flat_over_two_thousand_requests(cluster: Cluster) -> None:
    processes = {entry.name: psutil.Process(entry.pid) for entry in cluster.supervisor.running()}

    def ask(count: int) -> None:
        with cluster.client() as client:
            for begin in range(0, count, 10):
                batch = [spec(f"short {begin + number}", max_tokens=2) for number in range(10)]
                for _ in client.ask(batch):
                    pass

    ask(600)
    before = {name: process.memory_info().rss for name, process in processes.items()}
    ask(2000)
    grown = {name: process.memory_info().rss - before[name] for name, process in processes.items()}
    assert max(grown.values()) < 4 * 1024**2, grown
