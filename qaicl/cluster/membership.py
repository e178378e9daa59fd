"""Nodes come, are heard, fall silent, come back."""

from __future__ import annotations

from typing import Literal

from qaicl.cluster import requests
from qaicl.cluster.actions import Action, ConnectNode, DisconnectNode, Note, SendClient, SendNode
from qaicl.cluster.dispatch import schedule
from qaicl.cluster.state import NodeStatus, NodeView, State
from qaicl.wire import messages as wire

CONNECT_AGAIN = 5.0
"""Seconds after which a registered node that is not heard gets a new connection."""


def found(state: State, record: wire.NodeRecord, now: float) -> list[Action]:
    """The registry names a node: connect to it where it is new or has started again."""
    node = state.nodes.get(record.name)
    if node is not None and node.record.incarnation == record.incarnation:
        absent = now - max(node.joined, node.last_heard)
        if not state.leading:
            return []
        if node.status is NodeStatus.dead and absent >= CONNECT_AGAIN:
            # The process lives, or it would not be in the registry: the connection itself may be beyond repair.
            node.joined = now
            return [ConnectNode(record), check(state, record.name)]
        if node.status is not NodeStatus.joining or now - node.joined < state.liveness.heartbeat:
            return []
    actions = [*_replace(state, record, now), ConnectNode(record)]
    return [*actions, check(state, record.name)] if state.leading else actions


def _replace(state: State, record: wire.NodeRecord, now: float) -> list[Action]:
    """Put a node's new self in the place of the old, whose work moves on."""
    actions: list[Action] = []
    old = state.nodes.get(record.name)
    fresh = NodeView(record, NodeStatus.joining, now, now)
    if old is not None and old.record.incarnation != record.incarnation:
        old.status = NodeStatus.dead
        actions += requests.fail_over(state, record.name, now - old.last_heard, "it started again", now)
    state.nodes[record.name] = fresh
    return actions


def check(state: State, name: str) -> SendNode:
    """Ask a node for a sign of life."""
    state.seq += 1
    return SendNode(name, wire.HealthCheck(state.epoch, state.name, state.seq))


def registered(state: State, name: str, record: wire.NodeRecord, now: float) -> list[Action]:
    """A node answers its first health check with what it is."""
    if record.name != name:
        state.count("unexpected_messages")
        return []
    actions: list[Action] = []
    node = state.nodes.get(name)
    if node is None or node.record.incarnation != record.incarnation:
        actions += _replace(state, record, now)
        node = state.nodes[name]
    node.record = record
    node.last_heard = now
    if node.status in (NodeStatus.joining, NodeStatus.dead):
        node.status = NodeStatus.alive
        node.failures = 0
        actions.append(Note("info", "node-up", {"node": name, "incarnation": record.incarnation}))
    state.introduce = True
    return [*actions, *schedule(state, now)]


def _introduce(state: State) -> list[Action]:
    """Tell every node of all nodes."""
    peers = tuple(
        wire.Peer(node.record.name, node.record.endpoint, node.record.public_key, node.record.incarnation)
        for _, node in sorted(state.nodes.items())
    )
    update = wire.ConfigUpdate(state.epoch, state.name, peers)
    return [
        SendNode(name, update) for name, node in sorted(state.nodes.items()) if node.status is not NodeStatus.joining
    ]


def heartbeat(state: State, name: str, message: wire.Heartbeat, now: float) -> list[Action]:
    """A sign of life; a node that was given up is taken back, tasks that it should not have are released."""
    node = state.nodes.get(name)
    if node is None or node.record.incarnation != message.incarnation:
        return []
    actions: list[Action] = []
    node.last_heard = now
    node.load = message.load
    if node.status in (NodeStatus.dead, NodeStatus.joining):
        node.status = NodeStatus.alive
        actions.append(Note("info", "node-back", {"node": name}))
        state.introduce = True
    if message.seq > node.commanded and node.status in (NodeStatus.alive, NodeStatus.draining):
        node.status = NodeStatus.draining if message.draining else NodeStatus.alive
    newly = frozenset(message.unreachable) - node.unreachable
    node.unreachable = frozenset(message.unreachable)
    for request, attempt in message.tasks:
        view = state.requests.get(request)
        if view is None or attempt < view.attempt or name not in {stage.node for stage in view.pipeline}:
            actions.append(SendNode(name, wire.Release(state.epoch, state.name, request, attempt)))
    if newly:
        actions.append(Note("warning", "link-down", {"node": name, "peers": sorted(newly)}))
    return actions + (schedule(state, now) if state.queue else [])


def lost(state: State, name: str, reason: str, now: float) -> list[Action]:
    """Count a node as dead and move its work; it is probed until it answers."""
    node = state.nodes.get(name)
    if node is None or node.status in (NodeStatus.dead, NodeStatus.joining):
        return []
    was = node.status
    node.status = NodeStatus.dead
    state.count("nodes_lost")
    note = Note("warning", "node-down", {"node": name, "was": str(was), "reason": reason})
    actions: list[Action] = [note, *requests.fail_over(state, name, now - node.last_heard, reason, now)]
    node.running.clear()
    if node.removed:
        del state.nodes[name]
        actions.append(DisconnectNode(name))
    return actions


def tick(state: State, now: float) -> list[Action]:
    """Probe every node; count the silent ones as dead.

    An orchestrator that was itself stopped for a while must not take its own silence for theirs.
    """
    limits = state.liveness
    patience = limits.heartbeat * limits.missed
    if now - state.last_tick > limits.heartbeat:
        for node in state.nodes.values():
            node.last_heard = now
    state.last_tick = now
    actions: list[Action] = []
    if state.introduce:
        state.introduce = False
        actions += _introduce(state)
    for name, node in list(state.nodes.items()):
        if node.status in (NodeStatus.alive, NodeStatus.draining) and now - node.last_heard > patience:
            actions += lost(state, name, f"silent for {now - node.last_heard:.1f} s", now)
        elif node.status in (NodeStatus.dead, NodeStatus.joining) and now - node.last_heard > 10 * limits.register_ttl:
            del state.nodes[name]
            actions.append(DisconnectNode(name))
    if now >= state.next_ping:
        state.next_ping = now + limits.heartbeat
        actions += [check(state, name) for name in state.nodes]
    return actions


def command(
    state: State, client: bytes, name: str, action: Literal["drain", "resume", "remove"], now: float
) -> list[Action]:
    """What the operator wants of a node."""
    node = state.nodes.get(name)
    if node is None:
        refused = wire.Refused(
            "", "UsageError", f"no node '{name}'", f"known are {', '.join(sorted(state.nodes))}", "run: qaicl node list"
        )
        return [SendClient(client, refused)]
    node.commanded = state.seq
    told: Literal["drain", "resume", "stop"] = "stop" if action == "remove" else action
    actions: list[Action] = [
        Note("info", "node-command", {"node": name, "action": action}),
        SendNode(name, wire.Emergency(state.epoch, state.name, told)),
    ]
    if action == "resume":
        if node.status is NodeStatus.draining:
            node.status = NodeStatus.alive
        done = f"{name} takes work again"
        actions += schedule(state, now)
    elif action == "drain":
        if node.status is NodeStatus.alive:
            node.status = NodeStatus.draining
        done = f"{name} takes no new work; {len(node.running)} running"
    else:
        node.removed = True
        if node.status is NodeStatus.dead:
            del state.nodes[name]
            actions.append(DisconnectNode(name))
        else:
            node.status = NodeStatus.draining
            actions += requests.fail_over(state, name, now - node.last_heard, "it was removed", now)
        done = f"{name} is removed"
    return [*actions, SendClient(client, wire.Done(done))]
