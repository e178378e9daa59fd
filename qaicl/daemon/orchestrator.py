"""The orchestrator daemon: binds the brain and the lease to sockets, the store and the clock."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import msgspec
import zmq

from qaicl.cluster import actions as act
from qaicl.cluster import events as ev
from qaicl.cluster import lease as leases
from qaicl.cluster import orchestrator as brain
from qaicl.cluster.state import State
from qaicl.daemon.base import Daemon
from qaicl.daemon.records import Records
from qaicl.errors import QaiclError
from qaicl.settings import Settings
from qaicl.store import ops, writer
from qaicl.wire import endpoints, frames, sockets
from qaicl.wire.messages import Message, NodeRecord

LOOK_EVERY = 1.0
"""Seconds between two looks at the registry; news of it come at once besides."""
GONE_FOR = 0.2
"""Seconds that the leader's connection must stay closed before a standby takes over."""


class OrchestratorDaemon(Daemon):
    """Accepts requests and plans, or stands by."""

    role = "orchestrator"
    domain_roles = frozenset({"client", "orchestrator"})
    tick = 0.1

    def __init__(self, settings: Settings, name: str, bind: str) -> None:
        super().__init__(settings, name, bind)
        values = settings.values
        self._state = State(name, values.limits, values.liveness, values.balancing.policy)
        self._lease = leases.Lease(name, values.liveness.lease_ttl)
        self._records = Records()
        self._incarnation = secrets.token_hex(8)
        self._nodes: dict[str, tuple[zmq.Socket[bytes], sockets.Monitor]] = {}
        self._leader_line: tuple[str, zmq.Socket[bytes], sockets.Monitor] | None = None
        self._leader_gone_at: float | None = None
        self._open: list[ev.StoredRequest] = []
        self._next_look = 0.0
        self._next_announce = 0.0

    # --- the loop --------------------------------------------------------------------------------

    def started(self) -> None:
        """Ask for the lease at once."""
        self._ask(leases.tick(self._lease, time.monotonic()))

    def received(self, parts: Sequence[zmq.Frame]) -> None:
        """A client's message."""
        try:
            message, _ = frames.decode(parts[1:])
        except frames.BadFrame as error:
            self.bad_frame(parts, error)
            return
        self._feed(ev.ClientSent(parts[0].bytes, message))

    def ticked(self, now: float) -> None:
        """Lease, registry, timeouts."""
        gone = self._leader_gone_at is not None and now - self._leader_gone_at >= GONE_FOR
        if gone and not self._lease.asking:
            self._leader_gone_at = None
            self._ask(leases.leader_gone(self._lease, self._lease.leader, now))
        self._ask(leases.tick(self._lease, now))
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self.store.submit(ops.List("node"))
            if self._leader_line is None and self._lease.leader not in ("", self.name):
                self._watch_leader(self._lease.leader)
        if now >= self._next_announce:
            liveness = self.settings.values.liveness
            self._next_announce = now + liveness.register_every
            ttl = int(liveness.register_ttl * 1000)
            self.store.submit(ops.Announce("orchestrator", self.name, self._incarnation, b"", ttl))
        self._feed(ev.Tick())

    def ending(self) -> None:
        """Give the lease back, so that a standby need not wait for it to run out."""
        if self._lease.epoch:
            self.store.submit(ops.Release(self.name, self._lease.epoch))
        self.store.submit(ops.Withdraw("orchestrator", self.name, self._incarnation))
        for name in list(self._nodes):
            self._disconnect(name)
        self._unwatch_leader()

    # --- the brain's wishes ----------------------------------------------------------------------

    def _feed(self, event: ev.Event) -> None:
        for action in brain.step(self._state, event, time.monotonic()):
            match action:
                case act.SendClient(client, message):
                    self.send(client, message)
                case act.SendNode(name, message):
                    self._send_node(name, message)
                case act.ConnectNode(record):
                    self._connect(record)
                case act.DisconnectNode(name):
                    self._disconnect(name)
                case act.StepDown(epoch, leader):
                    leases.superseded(self._lease, epoch, leader, time.monotonic())
                case act.Note(level, what, fields):
                    self.log(level, what, **fields)
                case _:
                    if isinstance(action, act.StoreLoadOpen):
                        self._open.clear()
                    self.store.submit(self._records.operation(action, self._state.epoch))

    # --- nodes -----------------------------------------------------------------------------------

    def _connect(self, record: NodeRecord) -> None:
        if not self.allowed.allows("node", record.public_key):
            self.log("warning", "unknown-node-key", node=record.name, key=record.public_key)
            return
        self._disconnect(record.name)
        identity = f"{self.name}.{self._incarnation}".encode()
        socket = sockets.dealer(self.zmq, record.endpoint, record.public_key, self.keypair, identity, connect=False)
        # A health check sent before the handshake is done waits for it; later ones are dropped while nobody is there.
        socket.immediate = False
        monitor = sockets.Monitor(socket)
        name = record.name
        self._nodes[name] = (socket, monitor)
        self.poll(socket, lambda: self._hear(name))
        self.poll(monitor.socket, lambda: self._watch(name))
        socket.connect(record.endpoint)

    def _disconnect(self, name: str) -> None:
        held = self._nodes.pop(name, None)
        if held is None:
            return
        socket, monitor = held
        self.unpoll(socket)
        self.unpoll(monitor.socket)
        monitor.close()
        socket.close(0)

    def _send_node(self, name: str, message: Message) -> None:
        held = self._nodes.get(name)
        if held is None:
            return
        try:
            held[0].send_multipart(frames.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            self.log("debug", "not-sent", node=name, kind=type(message).__name__)

    def _hear(self, name: str) -> None:
        while (held := self._nodes.get(name)) is not None:
            try:
                parts = held[0].recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                message, _ = frames.decode(parts)
            except frames.BadFrame as error:
                self.bad_frame(parts, error)
                continue
            self._feed(ev.NodeSent(name, message))

    def _watch(self, name: str) -> None:
        held = self._nodes.get(name)
        for event in held[1].events() if held is not None else []:
            if event.kind is sockets.EventKind.disconnected:
                self._feed(ev.NodeLost(name, "the connection closed"))
            elif event.refused:
                self.log("warning", "node-refuses-our-key", node=name)

    # --- the store -------------------------------------------------------------------------------

    def stored(self, event: writer.Event) -> None:
        """An answer of the store, or news of the connection."""
        match event:
            case writer.Down(error):
                self.log("error", "store-down", error=error.what, why=error.why)
                self._feed(ev.StoreWentDown())
            case writer.Up():
                self._feed(ev.StoreCameUp())
            case writer.Result(op, outcome):
                if isinstance(outcome, QaiclError):
                    self.log("error", "store-refused", operation=type(op).__name__, error=str(outcome))
                if isinstance(outcome, writer.Lost | QaiclError):
                    if isinstance(op, ops.Acquire | ops.Renew | ops.TakeOver):
                        leases.unanswered(self._lease)
                else:
                    self._answered(op, outcome)

    def _answered(self, op: ops.Op, reply: ops.Reply) -> None:
        match reply:
            case ops.Leased(epoch, _):
                self._lease_changed(leases.granted(self._lease, epoch))
            case ops.Held(epoch, holder):
                self._lease_changed(leases.refused(self._lease, holder, epoch))
            case ops.Stale(epoch, holder):
                if (epoch, holder) != (self._lease.epoch, self.name):
                    self._lease_changed(leases.refused(self._lease, holder, epoch))
            case ops.Listed(records):
                for record in records.values():
                    self._feed(ev.NodeFound(msgspec.msgpack.decode(record, type=NodeRecord)))
            case ops.Open(requests, after):
                self._open += [self._records.request(stored) for stored in requests]
                if after:
                    self.store.submit(ops.LoadOpen(after))
                else:
                    found, self._open = tuple(self._open), []
                    self._feed(ev.StoreOpenRequests(found))
            case ops.Ended() if isinstance(op, ops.RecordTokens):
                self.store.submit(ops.Load(op.id))
            case _:
                event = self._records.event(op, reply)
                if event is not None:
                    self._feed(event)

    # --- the lease -------------------------------------------------------------------------------

    def _ask(self, ask: leases.AskLease | None) -> None:
        if ask is None:
            return
        ttl = int(self._lease.ttl * 1000)
        match ask.kind:
            case leases.Ask.acquire:
                self.store.submit(ops.Acquire(self.name, ttl, ask.floor))
            case leases.Ask.renew:
                self.store.submit(ops.Renew(self.name, ask.epoch, ttl))
            case leases.Ask.takeover:
                self.store.submit(ops.TakeOver(self.name, ask.epoch, ttl, ask.floor))

    def _lease_changed(self, change: leases.Change | None) -> None:
        if change is None:
            return
        if change.leading:
            self._unwatch_leader()
            self._feed(ev.LeaseGained(change.epoch))
        else:
            self._feed(ev.LeaseLost(change.leader, change.epoch))
            self._watch_leader(change.leader)

    def _watch_leader(self, leader: str) -> None:
        """Hold a connection to the leader only to see it close; without one, its lease must run out."""
        self._unwatch_leader()
        context = self.settings.paths.context(self.settings.context)
        try:
            entry = next((entry for entry in endpoints.read(context) if entry.name == leader), None)
        except QaiclError as error:
            self.log("warning", "leader-not-watched", leader=leader, error=error.what, why=error.why)
            return
        if entry is None:
            return
        socket = sockets.dealer(self.zmq, entry.endpoint, entry.public_key, self.keypair, connect=False)
        monitor = sockets.Monitor(socket)
        self._leader_line = (leader, socket, monitor)
        self.poll(monitor.socket, self._leader_news)
        socket.connect(entry.endpoint)

    def _unwatch_leader(self) -> None:
        if self._leader_line is not None:
            _, socket, monitor = self._leader_line
            self.unpoll(monitor.socket)
            monitor.close()
            socket.close(0)
        self._leader_line = None
        self._leader_gone_at = None

    def _leader_news(self) -> None:
        if self._leader_line is None:
            return
        for event in self._leader_line[2].events():
            if event.connected:
                self._leader_gone_at = None
            elif event.kind is sockets.EventKind.disconnected:
                self._leader_gone_at = time.monotonic()
