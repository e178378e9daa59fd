"""The node daemon: binds the node's brain to sockets, the engine and the registry."""

from __future__ import annotations

import os
import secrets
import socket as system
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import psutil
import zmq

from qaicl.cluster import node as brain
from qaicl.cluster.node_state import (
    CloseTask,
    Compute,
    ConnectPeers,
    Event,
    LeaderSent,
    LinkChanged,
    NodeState,
    OpenTask,
    PeerSent,
    Sampled,
    SendLeader,
    SendPeer,
    Stop,
    Tick,
)
from qaicl.daemon.base import Daemon
from qaicl.daemon.executor import Executor, Order
from qaicl.errors import NoCapacityError
from qaicl.inference.engine import Engine
from qaicl.inference.factory import create_engine
from qaicl.models.store import Store
from qaicl.settings import Settings
from qaicl.store import ops, writer
from qaicl.wire import frames, sockets
from qaicl.wire.messages import Load, NextToken, NodeRecord, PartialResult, Peer

TICK = 0.25
SAMPLE_EVERY = 1.0
CONNECT_AGAIN = 2.0


class NodeDaemon(Daemon):
    """Hosts stages of one model.

    Args:
        settings: of the context; ``cluster.model``, ``precision`` and ``threads`` say what is served and how.
        name: in the cluster; its key is ``keys/<name>.key_secret``.
        bind: where to listen.
        advertise: the address that others use.
    """

    role = "node"
    domain_roles = frozenset({"orchestrator", "node"})

    def __init__(self, settings: Settings, name: str, bind: str, advertise: str) -> None:
        super().__init__(settings, name, bind)
        self._advertise = self.endpoint if advertise.endswith((":0", ":*")) else advertise
        self._arrived: deque[list[Event]] = deque()
        self._links: dict[str, tuple[Peer, zmq.Socket[bytes], sockets.Monitor]] = {}
        self._final: dict[str, float] = {}
        """Peers whose connection ended for good, and when: it is begun anew after a while."""
        self._next_register = 0.0
        self._next_sample = 0.0
        self._process = psutil.Process()
        self._process.cpu_percent()
        begun = time.monotonic()
        engine = self._open_engine()
        opened = time.monotonic()
        self.log("info", "engine-open", precision=engine.info.precision, seconds=round(opened - begun, 3))
        self._state = NodeState(self._record(engine))
        self.log("info", "layers-loaded-and-measured", seconds=round(time.monotonic() - opened, 3))
        self._executor = Executor(engine, self._computed, settings.values.limits.running_per_node)

    # --- the engine ------------------------------------------------------------------------------

    def _open_engine(self) -> Engine:
        cluster = self.settings.values.cluster
        paths = self.settings.paths
        store = paths.models(self.settings.values.models)
        directory = store if cluster.model == "echo" else Store(store).open(cluster.model)
        return create_engine(
            directory,
            model=cluster.model,
            precision=cluster.precision,
            threads=cluster.threads or 1,
            max_tasks=4 * self.settings.values.limits.running_per_node,
            memory_limit=None,
            cache_dir=paths.state / "measured",
        )

    def _record(self, engine: Engine) -> NodeRecord:
        info = engine.info
        max_layers = info.layers
        try:
            engine.load(0, info.layers - 1)
        except NoCapacityError as error:
            max_layers = min(info.layers, engine.memory().free // max(1, info.layer_bytes))
            self.log("warning", "not-all-layers-fit", layers=max_layers, why=error.why)
        speed = engine.measure()
        return NodeRecord(
            name=self.name,
            incarnation=secrets.token_hex(8),
            endpoint=self._advertise,
            public_key=self.keypair.public,
            pid=os.getpid(),
            host=system.gethostname(),
            model=info.model,
            digest=info.digest,
            precision=info.precision,
            layers=info.layers,
            max_layers=max_layers,
            layer_seconds=speed.layer_seconds,
            ends_seconds=speed.ends_seconds,
        )

    def _computed(self, events: list[Event]) -> None:
        self._arrived.append(events)
        self.wake()

    # --- the loop --------------------------------------------------------------------------------

    def started(self) -> None:
        """Open for work."""
        self._executor.start()

    def woken(self) -> None:
        """Results of the compute thread."""
        while self._arrived:
            for event in self._arrived.popleft():
                self._feed(event)
        if self._executor.broken is not None:
            raise self._executor.broken

    def received(self, parts: Sequence[zmq.Frame]) -> None:
        """One message on the router: from a leader or from a peer."""
        identity = parts[0].bytes
        try:
            message, payload = frames.decode(parts[1:])
        except frames.BadFrame as error:
            self.bad_frame(parts, error)
            return
        if isinstance(message, PartialResult):
            self._feed(PeerSent(message, bytes(payload[0])))
        elif isinstance(message, NextToken):
            self._feed(PeerSent(message))
        else:
            self._feed(LeaderSent(identity, message))

    def ticked(self, now: float) -> None:
        """Time has passed: register, measure the load, watch the links."""
        if now >= self._next_register:
            self._next_register = now + self.settings.values.liveness.register_every
            self._register()
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_EVERY
            self._feed(Sampled(self._load()))
        for name, since in list(self._final.items()):
            if now - since >= CONNECT_AGAIN and name in self._links:
                del self._final[name]
                peer, socket, _ = self._links[name]
                sockets.reconnect(socket, peer.endpoint)
        self._feed(Tick())

    def stored(self, event: writer.Event) -> None:
        """The registry's news: write down when it cannot be reached, announce again when it can."""
        if isinstance(event, writer.Down):
            self.log("error", "store-down", error=event.error.what, why=event.error.why)
        elif isinstance(event, writer.Up):
            self._next_register = 0.0

    def ending(self) -> None:
        """Leave the registry and end the compute thread."""
        self.store.submit(ops.Withdraw("node", self.name, self._state.record.incarnation))
        self._executor.stop()
        for name in list(self._links):
            self._unlink(name)

    def _register(self) -> None:
        record = self._state.record
        ttl = int(self.settings.values.liveness.register_ttl * 1000)
        self.store.submit(ops.Announce("node", self.name, record.incarnation, msgspec.msgpack.encode(record), ttl))

    def _load(self) -> Load:
        memory = psutil.virtual_memory()
        return Load(
            cpu_percent=round(min(100.0, self._process.cpu_percent() / (psutil.cpu_count() or 1)), 1),
            memory_percent=round(memory.percent, 1),
            memory_free=memory.available,
            step_ms=round(self._executor.step_seconds * 1000, 3),
        )

    # --- the brain's wishes ----------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
        orders: list[Order] = []
        for action in brain.step(self._state, event, time.monotonic()):
            match action:
                case OpenTask() | CloseTask() | Compute():
                    orders.append(action)
                case SendLeader(conn, message):
                    self.send(conn, message)
                case SendPeer():
                    self._send_peer(action)
                case ConnectPeers(peers):
                    self._connect(peers)
                case Stop():
                    self.stop()
        if orders:
            self._executor.submit(orders)

    def _send_peer(self, send: SendPeer) -> None:
        link = self._links.get(send.peer)
        if link is None:
            return
        payload = [send.data] if isinstance(send.message, PartialResult) else []
        try:
            link[1].send_multipart(frames.encode(send.message, payload), zmq.DONTWAIT)
        except zmq.Again:
            self._feed(LinkChanged(send.peer, False))

    def _connect(self, peers: Sequence[Peer]) -> None:
        wanted = {peer.name: peer for peer in peers}
        for name in [name for name in self._links if name not in wanted]:
            self._unlink(name)
        for name, peer in wanted.items():
            held = self._links.get(name)
            if held is not None and held[0].incarnation == peer.incarnation and held[0].endpoint == peer.endpoint:
                continue
            if not self.allowed.allows("node", peer.public_key):
                self.log("warning", "unknown-peer-key", peer=name, key=peer.public_key)
                continue
            if held is not None:
                self._unlink(name)
            socket = sockets.dealer(self.zmq, peer.endpoint, peer.public_key, self.keypair, connect=False)
            monitor = sockets.Monitor(socket)
            self._links[name] = (peer, socket, monitor)
            self.poll(monitor.socket, lambda name=name: self._watch(name))  # type: ignore[misc]
            socket.connect(peer.endpoint)

    def _unlink(self, name: str) -> None:
        _, socket, monitor = self._links.pop(name)
        self.unpoll(monitor.socket)
        monitor.close()
        socket.close(0)

    def _watch(self, name: str) -> None:
        for event in self._links[name][2].events():
            if event.final:
                self._final[name] = time.monotonic()
            if event.connected or event.kind is sockets.EventKind.disconnected:
                self._feed(LinkChanged(name, event.connected))
