"""Sockets: who gets in, who does not, and how fast a dead peer is seen. Real sockets and real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zmq

from qaicl.errors import NotAuthorisedError, PortTakenError, WireError
from qaicl.wire import keys, sockets
from qaicl.wire.keys import AllowList, KeyPair
from qaicl.wire.zap import Gate, peer_key

ANY = "tcp://127.0.0.1:*"
PATIENCE = 10.0


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.002)


def where(router: sockets.Socket) -> str:
    return router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


@dataclass
class Place:
    """A server's context with its gate."""

    directory: Path
    context: sockets.Context
    gate: Gate
    server: KeyPair
    opened: list[sockets.Socket] = field(default_factory=list)
    monitors: list[sockets.Monitor] = field(default_factory=list)

    def key(self, name: str, role: str | None) -> KeyPair:
        pair = keys.make_keypair(self.directory / "keys", name)
        if role is not None:
            target = self.directory / "allowed" / role / f"{name}.key"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((self.directory / "keys" / f"{name}.key").read_bytes())
        return pair

    def router(self, domain: str = "nodes", bind: str = ANY) -> tuple[sockets.Socket, str]:
        socket = sockets.router(self.context, bind, self.server, domain)
        self.opened.append(socket)
        return socket, where(socket)

    def dealer(
        self, endpoint: str, pair: KeyPair, identity: bytes = b"", server_key: str | None = None
    ) -> tuple[sockets.Socket, sockets.Monitor]:
        socket = sockets.dealer(self.context, endpoint, server_key or self.server.public, pair, identity, connect=False)
        monitor = sockets.Monitor(socket)
        self.opened.append(socket)
        self.monitors.append(monitor)
        socket.connect(endpoint)
        return socket, monitor


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    context = sockets.Context()
    allowed = AllowList(tmp_path / "allowed")
    domains = {"nodes": frozenset({"orchestrator", "node"}), "clients": frozenset({"client"})}
    with Gate(context, allowed, domains) as gate:
        here = Place(tmp_path, context, gate, keys.make_keypair(tmp_path / "keys", "server"))
        yield here
        for monitor in here.monitors:
            monitor.close()
        for socket in here.opened:
            socket.close(0)
    # Also closes what a failing test left open, which would hold the context for ever.
    context.destroy(linger=0)


def wait_for(monitor: sockets.Monitor, kind: sockets.EventKind, seconds: float = PATIENCE) -> sockets.Event:
    end = time.monotonic() + seconds
    while True:
        for event in monitor.events():
            if event.kind is kind:
                return event
        left = end - time.monotonic()
        assert left > 0, f"no {kind} within {seconds} s"
        monitor.socket.poll(max(1, int(left * 1000)))


def test_an_allowed_peer_talks_and_its_key_is_known(place: Place) -> None:
    router, endpoint = place.router()
    pair = place.key("vm-2", "node")
    dealer, monitor = place.dealer(endpoint, pair, b"vm-2")
    assert wait_for(monitor, sockets.EventKind.connected).connected
    dealer.send(b"hello")
    identity, frame = router.recv_multipart(copy=False)
    assert (identity.bytes, frame.bytes) == (b"vm-2", b"hello")
    assert peer_key(frame) == pair.public
    router.send_multipart([b"vm-2", b"welcome"])
    assert dealer.recv() == b"welcome"
    assert place.gate.refusals == 0


@pytest.mark.parametrize("role", [None, "client"])
def test_a_key_that_is_not_allowed_gets_nothing(place: Place, role: str | None) -> None:
    router, endpoint = place.router("nodes")
    pair = place.key("stranger", role)
    dealer, monitor = place.dealer(endpoint, pair, b"vm-2")
    event = wait_for(monitor, sockets.EventKind.refused)
    assert event.refused
    assert not event.connected
    assert place.gate.refused[pair.public] >= 1
    with pytest.raises(zmq.Again):
        dealer.send(b"hello", zmq.DONTWAIT)
    with pytest.raises(zmq.ZMQError, match="Host unreachable"):
        router.send_multipart([b"vm-2", b"secret"])
    assert router.poll(0) == 0


def test_a_key_that_is_allowed_later_gets_in_on_the_next_try(place: Place) -> None:
    router, endpoint = place.router()
    pair = place.key("vm-4", None)
    dealer, monitor = place.dealer(endpoint, pair)
    assert wait_for(monitor, sockets.EventKind.refused).final
    (place.directory / "allowed" / "node").mkdir(parents=True)
    certificate = (place.directory / "keys" / "vm-4.key").read_bytes()
    (place.directory / "allowed" / "node" / "vm-4.key").write_bytes(certificate)
    sockets.reconnect(dealer, endpoint)
    wait_for(monitor, sockets.EventKind.connected)
    dealer.send(b"hello")
    assert router.recv_multipart()[1] == b"hello"


def test_reconnecting_a_good_connection_leaves_one(place: Place) -> None:
    router, endpoint = place.router()
    dealer, monitor = place.dealer(endpoint, place.key("vm-2", "node"), b"vm-2")
    wait_for(monitor, sockets.EventKind.connected)
    sockets.reconnect(dealer, endpoint)
    wait_for(monitor, sockets.EventKind.connected)
    for word in (b"1", b"2", b"3", b"4"):
        dealer.send(word)
    assert [router.recv_multipart()[1] for _ in range(4)] == [b"1", b"2", b"3", b"4"]


def test_a_server_with_another_key_counts_as_a_refusal(place: Place) -> None:
    _, endpoint = place.router()
    other = place.key("other", None)
    _, monitor = place.dealer(endpoint, place.key("vm-2", "node"), server_key=other.public)
    events: list[sockets.Event] = []

    def refused() -> bool:
        events.extend(monitor.events())
        return any(event.refused for event in events)

    until(refused, "refused")
    assert not any(event.connected for event in events)


def test_without_a_gate_nobody_gets_in(tmp_path: Path) -> None:
    context = sockets.Context()
    server, client = (keys.make_keypair(tmp_path, name) for name in ("server", "client"))
    router = sockets.router(context, ANY, server, "nodes")
    dealer = sockets.dealer(context, where(router), server.public, client, connect=False)
    monitor = sockets.Monitor(dealer)
    try:
        dealer.connect(where(router))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert not any(event.connected for event in monitor.events())
            monitor.socket.poll(50)
        with pytest.raises(zmq.Again):
            dealer.send(b"hello", zmq.DONTWAIT)
    finally:
        monitor.close()
        dealer.close(0)
        router.close(0)
        context.term()


def test_a_peer_without_encryption_gets_nothing(place: Place) -> None:
    router, endpoint = place.router()
    plain = place.context.socket(zmq.DEALER)
    place.opened.append(plain)
    plain.linger = 0
    plain.connect(endpoint)
    plain.send(b"hello")
    assert router.poll(300) == 0


def test_a_router_says_who_is_not_there_and_lets_a_new_self_replace_the_old(place: Place) -> None:
    router, endpoint = place.router()
    pair = place.key("vm-2", "node")
    with pytest.raises(zmq.ZMQError, match="Host unreachable"):
        router.send_multipart([b"vm-2", b"x"])
    old, old_monitor = place.dealer(endpoint, pair, b"vm-2")
    wait_for(old_monitor, sockets.EventKind.connected)
    old.send(b"old")
    assert router.recv_multipart() == [b"vm-2", b"old"]
    new, new_monitor = place.dealer(endpoint, pair, b"vm-2")
    wait_for(new_monitor, sockets.EventKind.connected)
    new.send(b"new")
    assert router.recv_multipart() == [b"vm-2", b"new"]
    router.send_multipart([b"vm-2", b"for the new one"])
    assert new.recv() == b"for the new one"
    assert old.poll(0) == 0


def test_nothing_queues_for_a_peer_that_is_not_there(place: Place) -> None:
    router, endpoint = place.router()
    dealer, monitor = place.dealer(endpoint, place.key("vm-2", "node"), b"vm-2")
    wait_for(monitor, sockets.EventKind.connected)
    router.close(0)
    wait_for(monitor, sockets.EventKind.disconnected)

    def refused() -> bool:
        try:
            dealer.send(b"into the void", zmq.DONTWAIT)
        except zmq.Again:
            return True
        return False

    until(refused, "no message is taken")
    router, _ = place.router(bind=endpoint)
    wait_for(monitor, sockets.EventKind.connected)
    dealer.send(b"first word", zmq.DONTWAIT)
    assert router.recv_multipart() == [b"vm-2", b"first word"]


def test_a_frame_above_the_limit_is_not_taken(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_FRAME_BYTES", 1000)
    router, endpoint = place.router()
    dealer, monitor = place.dealer(endpoint, place.key("vm-2", "node"))
    wait_for(monitor, sockets.EventKind.connected)
    dealer.send(bytes(2000))
    wait_for(monitor, sockets.EventKind.disconnected)
    assert router.poll(0) == 0


# --- dead peers ----------------------------------------------------------------------------------

PEER = """
import sys, zmq
from pathlib import Path
from qaicl.wire import keys, sockets
from qaicl.wire.zap import Gate
here = Path(sys.argv[1])
context = sockets.Context()
gate = Gate(context, keys.AllowList(here / "allowed"), {"nodes": frozenset({"node"})})
gate.start()
router = sockets.router(context, "tcp://127.0.0.1:*", keys.load_secret(here / "keys" / "server.key_secret"), "nodes")
print(router.last_endpoint.decode(), flush=True)
while True:
    router.send_multipart(router.recv_multipart())
"""


@pytest.fixture
def peer(place: Place) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", PEER, str(place.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_killed_peer_is_seen_at_once(place: Place, peer: tuple[subprocess.Popen[str], str]) -> None:
    process, endpoint = peer
    dealer, monitor = place.dealer(endpoint, place.key("vm-1", "node"))
    wait_for(monitor, sockets.EventKind.connected)
    dealer.send(b"are you there")
    assert dealer.recv() == b"are you there"
    os.kill(process.pid, signal.SIGKILL)
    start = time.monotonic()
    wait_for(monitor, sockets.EventKind.disconnected)
    seen = time.monotonic() - start
    # About 10 ms on an idle machine; the bound leaves room for a busy one.
    assert seen < 0.25, f"seen after {seen * 1000:.0f} ms"


def test_a_stopped_peer_is_seen_by_its_silence(place: Place, peer: tuple[subprocess.Popen[str], str]) -> None:
    process, endpoint = peer
    _, monitor = place.dealer(endpoint, place.key("vm-1", "node"))
    wait_for(monitor, sockets.EventKind.connected)
    os.kill(process.pid, signal.SIGSTOP)
    start = time.monotonic()
    wait_for(monitor, sockets.EventKind.disconnected)
    assert 1.5 < time.monotonic() - start < 5.0
    os.kill(process.pid, signal.SIGCONT)
    wait_for(monitor, sockets.EventKind.connected)


# --- bad addresses -------------------------------------------------------------------------------


def test_a_port_that_is_taken(place: Place) -> None:
    _, endpoint = place.router()
    with pytest.raises(PortTakenError, match="another process listens there") as caught:
        place.router(bind=endpoint)
    assert "choose another port" in caught.value.fix


@pytest.mark.parametrize(
    "bind", ["tcp://192.0.2.1:5000", "127.0.0.1:5000", "tcp://127.0.0.1:nonsense", "carrier://pigeon"]
)
def test_an_address_that_cannot_be_listened_on(place: Place, bind: str) -> None:
    with pytest.raises(WireError, match="cannot listen on"):
        place.router(bind=bind)


def test_an_address_that_is_none(place: Place) -> None:
    with pytest.raises(WireError, match="cannot connect"):
        sockets.dealer(place.context, "nowhere", place.server.public, place.server)


@pytest.mark.parametrize("public_key", ["", "short", "ü" * 40, "~" * 40])
def test_a_server_key_that_is_none(place: Place, public_key: str) -> None:
    with pytest.raises(NotAuthorisedError, match="is not one"):
        sockets.dealer(place.context, "tcp://127.0.0.1:1", public_key, place.server)


def test_ipv6_is_allowed(place: Place) -> None:
    try:
        router, endpoint = place.router(bind="tcp://[::1]:*")
    except WireError:
        pytest.skip("this machine has no IPv6 loopback")
    dealer, _ = place.dealer(endpoint, place.key("vm-2", "node"))
    dealer.send(b"six")
    assert router.recv_multipart()[1] == b"six"
