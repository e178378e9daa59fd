"""A cluster with a virtual clock: the daemons' own ``step`` functions, everything around them simulated."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from qaicl.cluster import actions as act
from qaicl.cluster import events as ev
from qaicl.cluster import lease as leases
from qaicl.cluster import node as node_brain
from qaicl.cluster import node_state as ns
from qaicl.cluster import orchestrator as brain
from qaicl.cluster.state import State
from qaicl.daemon.records import Records
from qaicl.errors import QaiclError
from qaicl.inference.echo import EchoEngine
from qaicl.inference.engine import ChatMessage, Sampling
from qaicl.settings import LimitSettings, LivenessSettings
from qaicl.store import ops
from qaicl.wire import messages as wire
from tests.simulation.faults import Break, Fault, Scale, draw
from tests.simulation.sim_store import SimStore

LAYERS = 6
TICK = 0.25
STEP_SECONDS = 0.004
PATIENCE = 3.0


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


@dataclass
class Process:
    """Anything that can crash, stop, and has a clock of its own."""

    name: str
    skew: float
    up: bool = True
    paused: bool = False
    life: int = 0
    inbox: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Orchestrator(Process):
    """An orchestrator with its lease."""

    state: State = None  # type: ignore[assignment]
    lease: leases.Lease = None  # type: ignore[assignment]
    connected: set[str] = field(default_factory=set)
    store_up: bool = True
    next_look: float = 0.0


@dataclass
class Node(Process):
    """A node with an echo engine."""

    state: ns.NodeState = None  # type: ignore[assignment]
    engine: EchoEngine = None  # type: ignore[assignment]
    streams: dict[str, object] = field(default_factory=dict)
    slow: float = 1.0
    busy_until: float = 0.0
    highest_epoch: int = 0


@dataclass
class Client:
    """Asks one question and keeps what it is told."""

    spec: wire.RequestSpec
    start: float
    expected: str = ""
    tokens: list[wire.Token] = field(default_factory=list)
    outcome: wire.Outcome | None = None
    accepted: bool = False
    target: int = 0
    heard: float = 0.0
    away_until: float = 0.0
    shown: int = 0


class World:
    """One run. ``run`` raises ``BrokenPromiseError`` where a promise is broken."""

    def __init__(self, seed: int, scale: Scale, broken: Break = Break.nothing) -> None:
        self.seed = seed
        self.scale = scale
        self.broken = broken
        self.rng = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.records = Records()
        self.store = SimStore(fencing=broken is not Break.no_fencing, dedupe=broken is not Break.no_dedupe)
        self.loss = self.duplication = self.reorder = 0.0
        self.cut: set[frozenset[str]] = set()
        self.last_delivery: dict[tuple[str, str], float] = {}
        self.liveness = LivenessSettings()
        self.limits = LimitSettings(queue=200)
        self.orchestrators = {f"orch-{number}": self._orchestrator(number) for number in range(scale.orchestrators)}
        self.nodes = {f"node-{number}": self._node(f"node-{number}", 0) for number in range(scale.nodes)}
        self.clients = {f"client-{number}": self._client(number) for number in range(scale.requests)}

    # --- making ------------------------------------------------------------------------------

    def _skew(self) -> float:
        return self.rng.uniform(-1000.0, 1000.0)

    def _orchestrator(self, number: int, life: int = 0) -> Orchestrator:
        name = f"orch-{number}"
        state = State(name, self.limits, self.liveness, self.rng.choice(list(brain_policies())))
        lease = leases.Lease(name, self.liveness.lease_ttl)
        return Orchestrator(name, self._skew() + 2000, life=life, state=state, lease=lease)

    def _node(self, name: str, life: int) -> Node:
        engine = EchoEngine(layers=LAYERS, max_tasks=64)
        engine.load(0, LAYERS - 1)
        record = wire.NodeRecord(
            name,
            f"{name}.{life}",
            f"sim://{name}",
            "key",
            1,
            name,
            "echo",
            "echo-6",
            "float32",
            LAYERS,
            LAYERS,
            1e-3,
            1e-3,
        )
        return Node(name, self._skew() + 2000, life=life, state=ns.NodeState(record), engine=engine)

    def _client(self, number: int) -> Client:
        rng = self.rng
        spec = wire.RequestSpec(
            f"req-{number}",
            f"trace-{number}",
            "echo",
            (
                ChatMessage(
                    "user",
                    f"question {number} "
                    + "x" * (rng.randint(200, 600) if rng.random() < 0.15 else rng.randint(0, 40)),
                ),
            ),
            Sampling(temperature=1.0, seed=rng.randint(0, 9), max_tokens=self.scale.tokens),
            rng.choice(("auto", "split", "split", "replica")),
            rng.choice((0, 2, 3, 5)),
        )
        return Client(spec, rng.uniform(0.5, self.scale.seconds * 0.7), expected=undisturbed(spec), heard=-99.0)

    # --- time and transport ------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Schedule."""
        self.serial += 1
        heapq.heappush(self.heap, (when, self.serial, what))

    def deliver(self, sender: str, receiver: str, receive: Callable[[], None], target: Process | None) -> None:
        """Carry one message: in order and once, unless the network is bad now."""
        if frozenset((sender, receiver)) in self.cut or self.rng.random() < self.loss:
            return
        for _ in range(2 if self.rng.random() < self.duplication else 1):
            delay = 0.0005 + self.rng.expovariate(2000)
            if self.rng.random() < self.reorder:
                delay += self.rng.uniform(0, 0.05)
                when = self.now + delay
            else:
                when = max(self.now + delay, self.last_delivery.get((sender, receiver), 0.0) + 1e-6)
                self.last_delivery[sender, receiver] = when
            self._arrive(when, target, receive)

    def _arrive(self, when: float, target: Process | None, receive: Callable[[], None]) -> None:
        life = target.life if target else 0
        self.at(when, lambda: self._receive(target, life, receive))

    def _receive(self, target: Process | None, life: int, receive: Callable[[], None]) -> None:
        if target is None:
            receive()
            return
        current = self.orchestrators.get(target.name) or self.nodes.get(target.name)
        if current is None or current.life != life or not current.up:
            return
        if current.paused:
            current.inbox.append(receive)
        else:
            receive()

    # --- orchestrators -----------------------------------------------------------------------

    def feed(self, orch: Orchestrator, event: ev.Event) -> None:
        """One event into the orchestrator's brain; carry out what it wants."""
        if not orch.up:
            return
        self.events += 1
        if (
            self.broken is Break.no_dedupe
            and isinstance(event, ev.ClientSent)
            and isinstance(event.message, wire.Submit)
        ):
            orch.state.ended.pop(event.message.spec.id, None)
        for action in brain.step(orch.state, event, self.now + orch.skew):
            self._do(orch, action)

    def _do(self, orch: Orchestrator, action: act.Action) -> None:
        match action:
            case act.SendNode(name, message):
                node = self.nodes.get(name)
                if node is not None and name in orch.connected:
                    conn = f"{orch.name}.{orch.life}".encode()
                    self.deliver(orch.name, name, lambda: self._to_node(name, ns.LeaderSent(conn, message)), node)
            case act.SendClient(client, message):
                name = client.decode()
                self.deliver(orch.name, name, lambda: self._to_client(name, orch, message), None)
            case act.ConnectNode(record):
                orch.connected.add(record.name)
            case act.DisconnectNode(name):
                orch.connected.discard(name)
            case act.StepDown(epoch, leader):
                leases.superseded(orch.lease, epoch, leader, self.now + orch.skew)
            case act.Note():
                pass
            case _:
                self._to_store(orch, action)

    def _to_store(self, orch: Orchestrator, action: act.Action) -> None:
        life, epoch = orch.life, orch.state.epoch
        # One connection: in order, and everything under way is lost when it breaks.
        when = max(self.now + self.rng.uniform(0.0002, 0.002), self.last_delivery.get((orch.name, "store"), 0.0) + 1e-6)
        self.last_delivery[orch.name, "store"] = when

        def execute() -> None:
            if not self.store.up or not orch.up or orch.life != life:
                return
            op = self.records.operation(action, epoch)
            reply = self.store.apply(orch.name, op, self.now)
            self.at(self.now + 0.0005, lambda: self._receive(orch, life, lambda: self._store_reply(orch, op, reply)))

        self.at(when, execute)

    def _store_reply(self, orch: Orchestrator, op: ops.Op, reply: ops.Reply) -> None:
        if not orch.store_up:
            return
        match reply:
            case ops.Stale(epoch, holder):
                if (epoch, holder) != (orch.lease.epoch, orch.name):
                    self._lease_change(orch, leases.refused(orch.lease, holder, epoch))
            case ops.Open(requests):
                self.feed(orch, ev.StoreOpenRequests(tuple(map(self.records.request, requests))))
            case _:
                event = self.records.event(op, reply)
                if event is not None:
                    self.feed(orch, event)

    def _ask_lease(self, orch: Orchestrator, ask: leases.AskLease | None) -> None:
        if ask is None:
            return
        life = orch.life

        def execute() -> None:
            if not self.store.up:
                leases.unanswered(orch.lease)
                return
            ttl = round(self.liveness.lease_ttl * 1000)
            ops_by_kind: dict[leases.Ask, ops.Op] = {
                leases.Ask.acquire: ops.Acquire(orch.name, ttl, ask.floor),
                leases.Ask.renew: ops.Renew(orch.name, ask.epoch, ttl),
                leases.Ask.takeover: ops.TakeOver(orch.name, ask.epoch, ttl, ask.floor),
            }
            answer = self.store.apply(orch.name, ops_by_kind[ask.kind], self.now)

            def reply() -> None:
                match answer:
                    case ops.Leased(epoch):
                        self._lease_change(orch, leases.granted(orch.lease, epoch))
                    case ops.Held(epoch, holder):
                        self._lease_change(orch, leases.refused(orch.lease, holder, epoch))

            self.at(self.now + 0.0005, lambda: self._receive(orch, life, reply))

        self.at(self.now + 0.001, execute)

    def _lease_change(self, orch: Orchestrator, change: leases.Change | None) -> None:
        if change is None:
            return
        if change.leading:
            self.feed(orch, ev.LeaseGained(change.epoch))
        else:
            self.feed(orch, ev.LeaseLost(change.leader, change.epoch))

    def _tick_orchestrator(self, name: str, life: int) -> None:
        orch = self.orchestrators[name]
        if orch.life != life or not orch.up:
            return
        self.at(self.now + TICK, lambda: self._tick_orchestrator(name, life))
        if orch.paused:
            return
        if orch.store_up != self.store.up:
            orch.store_up = self.store.up
            if orch.store_up:
                orch.lease.asking = False
            self.feed(orch, ev.StoreCameUp() if orch.store_up else ev.StoreWentDown())
        if self.store.up and self.now >= orch.next_look:
            orch.next_look = self.now + 1.0
            for record, until in self.store.nodes.values():
                if until > self.now:
                    self.feed(orch, ev.NodeFound(record))
        self._ask_lease(orch, leases.tick(orch.lease, self.now + orch.skew))
        self.feed(orch, ev.Tick())

    # --- nodes -------------------------------------------------------------------------------

    def _to_node(self, name: str, event: ns.Event) -> None:
        node = self.nodes[name]
        if not node.up:
            return
        self.events += 1
        if isinstance(event, ns.LeaderSent):
            self._watch_epoch(node, event.message)
        for action in node_brain.step(node.state, event, self.now + node.skew):
            self._do_node(node, action)

    def _watch_epoch(self, node: Node, message: wire.Message) -> None:
        epoch = getattr(message, "epoch", 0)
        if self.broken is Break.no_fencing:
            node.state.epoch = 0
        node.highest_epoch = max(node.highest_epoch, epoch)

    def _do_node(self, node: Node, action: ns.Action) -> None:
        name, life = node.name, node.life
        match action:
            case ns.SendLeader(conn, message):
                owner, _, orch_life = conn.decode().rpartition(".")
                orch = self.orchestrators[owner]
                if orch.life == int(orch_life) and name in orch.connected:
                    self.deliver(name, owner, lambda: self.feed(orch, ev.NodeSent(name, message)), orch)
            case ns.SendPeer(peer, message, data):
                other = self.nodes[peer]
                self.deliver(name, peer, lambda: self._to_node(peer, ns.PeerSent(message, data)), other)
            case ns.ConnectPeers(peers):
                for peer in peers:
                    if node.state.links[peer.name].up is None:
                        self._link(node, peer.name)
            case ns.OpenTask():
                task = node.state.tasks[action.key.rpartition("/")[0]]
                if task.assignment.epoch < node.highest_epoch:
                    raise BrokenPromiseError(
                        f"{name} took a task of epoch {task.assignment.epoch} after {node.highest_epoch}"
                    )
                self._compute(node, lambda: self._open(name, life, action))
            case ns.CloseTask(key):
                self._compute(node, lambda: self._close(name, key))
            case ns.Compute(work):
                self._compute(node, lambda: self._step(name, life, work))
            case ns.Stop():
                node.up = False

    def _compute(self, node: Node, what: Callable[[], None]) -> None:
        node.busy_until = max(node.busy_until, self.now) + STEP_SECONDS * node.slow
        life = node.life
        self.at(node.busy_until, lambda: self._receive(node, life, what))

    def _open(self, name: str, life: int, order: ns.OpenTask) -> None:
        node = self.nodes[name]
        generated = () if self.broken is Break.no_replay else order.generated
        try:
            prompt = node.engine.encode(order.messages, order.sampling.max_tokens)
            stream = node.engine.text(order.sampling)
            finish = ""
            for token in generated:
                finish = stream.push(token).finish
            if len(order.generated) >= order.sampling.max_tokens:
                finish = finish or "length"
            if not finish:
                capacity = len(prompt) + order.sampling.max_tokens
                node.engine.open(order.key, order.first, order.last, capacity, order.sampling, [*prompt, *generated])
                node.streams[order.key] = stream
            event: ns.Event = ns.Opened(order.key, tuple(prompt), finish)
        except QaiclError as error:
            event = ns.TaskBroke(order.key, error.what, error.why, error.fix)
        if self.broken is Break.no_replay and (task := node.state.tasks.get(order.key.rpartition("/")[0])):
            task.assignment = wire.TaskAssignment(
                *(
                    getattr(task.assignment, part) if part != "generated" else ()
                    for part in task.assignment.__struct_fields__
                )
            )
        self._to_node(name, event)

    def _close(self, name: str, key: str) -> None:
        node = self.nodes[name]
        node.engine.close_task(key)
        node.streams.pop(key, None)

    def _step(self, name: str, life: int, work: ns.Work) -> None:
        node = self.nodes[name]
        if work.task not in node.streams:
            return
        (result,) = node.engine.step([work])
        if result.error:
            self._to_node(name, ns.TaskBroke(work.task, result.error))
            return
        token = None
        if result.token is not None:
            text = node.streams[work.task].push(result.token)  # type: ignore[attr-defined]
            token = wire.Token(result.token, text.text, text.finish)
        self._to_node(name, ns.Computed(work.task, work.start, work.sample, result.hidden, token))

    def _link(self, node: Node, peer: str) -> None:
        life = node.life
        self.at(self.now + 0.005, lambda: self._receive(node, life, lambda: self._probe(node, peer)))

    def _probe(self, node: Node, peer: str) -> None:
        other = self.nodes[peer]
        open_now = other.up and frozenset((node.name, peer)) not in self.cut
        if open_now:
            self._to_node(node.name, ns.LinkChanged(peer, True))

    def _tick_node(self, name: str, life: int) -> None:
        node = self.nodes[name]
        if node.life != life or not node.up:
            return
        self.at(self.now + TICK, lambda: self._tick_node(name, life))
        if node.paused:
            return
        if self.store.up:
            self.store.nodes[name] = (node.state.record, self.now + self.liveness.register_ttl)
        for peer, link in list(node.state.links.items()):
            other = self.nodes[peer]
            open_now = other.up and not (self.cut and frozenset((name, peer)) in self.cut)
            if link.up is not open_now:
                self._to_node(name, ns.LinkChanged(peer, open_now))
        self._to_node(name, ns.Tick())

    # --- clients -----------------------------------------------------------------------------

    def _tick_client(self, name: str) -> None:
        client = self.clients[name]
        if client.outcome is not None:
            return
        self.at(self.now + TICK, lambda: self._tick_client(name))
        if self.now < client.away_until or self.now - client.heard < (PATIENCE if client.accepted else TICK):
            return
        client.accepted = False
        client.heard = self.now
        targets = list(self.orchestrators.values())
        client.target += 1
        self._submit(name, targets[client.target % len(targets)])

    def _submit(self, name: str, orch: Orchestrator) -> None:
        client = self.clients[name]
        message = wire.Submit(client.spec, len(client.tokens))
        self.deliver(name, orch.name, lambda: self.feed(orch, ev.ClientSent(name.encode(), message)), orch)

    def _to_client(self, name: str, orch: Orchestrator, message: wire.Message) -> None:
        client = self.clients[name]
        if self.now < client.away_until:
            return
        match message:
            case wire.NotLeader():
                client.accepted = False
            case wire.Accepted():
                client.accepted, client.heard = True, self.now
            case wire.Tokens(_, _, first, tokens):
                client.heard = self.now
                self._check_shown(client, first, tokens)
                if first <= len(client.tokens):
                    client.tokens += tokens[len(client.tokens) - first :]
            case wire.Completed(outcome):
                client.heard = self.now
                if client.outcome is None and (outcome.error or self._whole(client)):
                    client.outcome = outcome
            case wire.Refused() as refused:
                raise BrokenPromiseError(f"{name} was refused: {refused}")

    def _whole(self, client: Client) -> bool:
        """A client that missed tokens on a lossy way asks again instead of believing the end."""
        return bool(client.tokens and client.tokens[-1].finish)

    def _check_shown(self, client: Client, first: int, tokens: tuple[wire.Token, ...]) -> None:
        recorded = self.store.most.get(client.spec.id, 0)
        for position, token in enumerate(tokens, first):
            if position >= recorded:
                raise BrokenPromiseError(f"{client.spec.id}: token {position} was shown before it was recorded")
            if position < len(client.tokens) and client.tokens[position] != token:
                raise BrokenPromiseError(f"{client.spec.id}: token {position} was shown twice and differs")

    # --- faults ------------------------------------------------------------------------------

    def _leader(self) -> Orchestrator | None:
        return next((orch for orch in self.orchestrators.values() if orch.up and orch.state.leading), None)

    def _strike(self, fault: Fault) -> None:
        heal = self.now + fault.lasts
        node = self.nodes[fault.target]
        leader = self._leader() or self.orchestrators["orch-0"]
        match fault.kind:
            case "crash-node":
                self._crash_node(node, heal)
            case "pause-node":
                self._pause(node, heal)
            case "slow-node":
                node.slow = self.rng.uniform(5, 200)
                self.at(heal, lambda: setattr(node, "slow", 1.0))
            case "crash-leader":
                self._crash_orchestrator(leader, heal)
            case "pause-leader":
                self._pause(leader, heal)
            case "partition-nodes":
                self._partition(fault.target, fault.other, heal)
            case "partition-leader":
                self._partition(leader.name, fault.target, heal)
            case "lossy":
                self._degrade("loss", self.rng.uniform(0.02, 0.3), heal)
            case "duplicating":
                self._degrade("duplication", self.rng.uniform(0.05, 0.5), heal)
            case "reordering":
                self._degrade("reorder", self.rng.uniform(0.05, 0.5), heal)
            case "store-restart":
                self._store_down(heal, loses=False)
            case "store-failover":
                self._store_down(heal, loses=True)
            case "client-leaves":
                client = self.clients[self.rng.choice(sorted(self.clients))]
                client.away_until = heal
                client.accepted = False

    def _crash_node(self, node: Node, heal: float) -> None:
        if not node.up:
            return
        node.up = False
        for orch in self.orchestrators.values():
            if node.name in orch.connected and frozenset((orch.name, node.name)) not in self.cut:
                lost = ev.NodeLost(node.name, "the connection closed")
                self.deliver(node.name, orch.name, lambda orch=orch, lost=lost: self.feed(orch, lost), orch)  # type: ignore[misc]

        def restart() -> None:
            fresh = self._node(node.name, node.life + 1)
            self.nodes[node.name] = fresh
            self._tick_node(fresh.name, fresh.life)

        self.at(heal, restart)

    def _crash_orchestrator(self, orch: Orchestrator, heal: float) -> None:
        if not orch.up:
            return
        orch.up = False
        for other in self.orchestrators.values():
            if other is not orch and other.up and frozenset((orch.name, other.name)) not in self.cut:
                when = self.now + 0.2
                self.at(when, lambda other=other: self._leader_gone(other, orch.name))  # type: ignore[misc]

        def restart() -> None:
            number = int(orch.name.rpartition("-")[2])
            fresh = self._orchestrator(number, orch.life + 1)
            self.orchestrators[orch.name] = fresh
            self._tick_orchestrator(fresh.name, fresh.life)

        self.at(heal, restart)

    def _leader_gone(self, orch: Orchestrator, leader: str) -> None:
        if orch.up and not orch.paused:
            self._ask_lease(orch, leases.leader_gone(orch.lease, leader, self.now + orch.skew))

    def _pause(self, process: Process, heal: float) -> None:
        if not process.up or process.paused:
            return
        process.paused = True

        def wake() -> None:
            process.paused = False
            waiting, process.inbox = process.inbox, []
            for receive in waiting:
                receive()

        self.at(heal, wake)

    def _partition(self, one: str, other: str, heal: float) -> None:
        pair = frozenset((one, other))
        self.cut.add(pair)
        self.at(heal, lambda: self.cut.discard(pair))

    def _degrade(self, what: str, amount: float, heal: float) -> None:
        setattr(self, what, amount)
        self.at(heal, lambda: setattr(self, what, 0.0))

    def _store_down(self, heal: float, loses: bool) -> None:
        if not self.store.up:
            return
        self.store.up = False

        def back() -> None:
            if loses:
                self.store.fail_over()
            self.store.up = True

        self.at(min(heal, self.now + 3.0), back)

    def _snapshots(self) -> None:
        if self.store.up:
            self.store.keep_snapshot()
        self.at(self.now + 0.7, self._snapshots)

    # --- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Run until every question has its end, all faults healed; then check the promises."""
        for name in self.orchestrators:
            self.at(self.rng.uniform(0, 0.3), lambda name=name: self._tick_orchestrator(name, 0))  # type: ignore[misc]
        for name in self.nodes:
            self.at(self.rng.uniform(0, 0.3), lambda name=name: self._tick_node(name, 0))  # type: ignore[misc]
        for name, client in self.clients.items():
            self.at(client.start, lambda name=name: self._tick_client(name))  # type: ignore[misc]
        self.at(0.1, self._snapshots)
        healed = 0.0
        for fault in draw(self.seed, self.scale):
            self.at(fault.at, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
            healed = max(healed, fault.at + fault.lasts)
        settled = max(healed + 10.0, self.scale.seconds * 0.7 + 1.0)
        self._advance(settled)
        self._check_nodes_used()
        deadline = settled + 160.0
        while any(client.outcome is None for client in self.clients.values()):
            if self.now >= deadline:
                lost = [client.spec.id for client in self.clients.values() if client.outcome is None]
                raise BrokenPromiseError(f"never ended: {', '.join(lost)}")
            self._advance(self.now + 1.0)
        self._advance(self.now + 5.0)
        self._check_end()

    def _advance(self, until: float) -> None:
        while self.heap and self.heap[0][0] <= until:
            self.now, _, what = heapq.heappop(self.heap)
            what()
        self.now = until

    def _check_nodes_used(self) -> None:
        leader = self._leader()
        if leader is None:
            raise BrokenPromiseError("nobody leads 10 s after the last fault")
        for name in self.nodes:
            view = leader.state.nodes.get(name)
            if view is None or not view.usable:
                raise BrokenPromiseError(f"{name} is not used 10 s after the last fault: {view and view.status}")

    def _check_end(self) -> None:
        for client in self.clients.values():
            assert client.outcome is not None
            ends = self.store.ends.get(client.spec.id, 0)
            least = 0 if client.spec.id in self.store.rolled_back else 1
            if not least <= ends <= 1:
                raise BrokenPromiseError(f"{client.spec.id} ended {ends} times")
            text = "".join(token.text for token in client.tokens)
            if not client.outcome.error and text != client.expected:
                raise BrokenPromiseError(f"{client.spec.id}: {text!r} instead of {client.expected!r}")
            if client.outcome.error and not client.expected.startswith(text):
                raise BrokenPromiseError(f"{client.spec.id}: wrong text before its failure")
        if self.store.content.stale_writes:
            raise BrokenPromiseError(f"{self.store.content.stale_writes} writes of an older leader took effect")
        leader = self._leader()
        if leader is None or leader.state.requests or leader.state.queue:
            raise BrokenPromiseError("the leader still holds ended requests")
        for node in self.nodes.values():
            if node.state.tasks or node.streams:
                raise BrokenPromiseError(f"{node.name} still holds {sorted(node.state.tasks)}")

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return sum(bool(client.outcome and client.outcome.error) for client in self.clients.values())


def brain_policies() -> tuple[str, ...]:
    """All balancing policies."""
    from qaicl.cluster.balancing import POLICIES

    return tuple(POLICIES)


def undisturbed(spec: wire.RequestSpec) -> str:
    """The answer of one engine alone."""
    engine = EchoEngine(layers=LAYERS)
    engine.load(0, LAYERS - 1)
    prompt = engine.encode(spec.messages, spec.sampling.max_tokens)
    engine.open("alone", 0, LAYERS - 1, len(prompt) + spec.sampling.max_tokens, spec.sampling, prompt)
    stream = engine.text(spec.sampling)
    text, start, tokens = "", 0, tuple(prompt)
    while True:
        (result,) = engine.step([ns.Work("alone", start, tokens, sample=True)])
        assert result.token is not None
        step = stream.push(result.token)
        text += step.text
        if step.finish:
            return text
        start, tokens = start + len(tokens), (result.token,)
