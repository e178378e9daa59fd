"""Which node is asked first: the five balancing policies, each saying why.

Every policy ranks nodes that may be given work; a dead or draining node never gets here, so that its low load
attracts nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qaicl.cluster.state import NodeView, State
from qaicl.settings import Policy


@dataclass(frozen=True, slots=True)
class Ranked:
    """A node with its reason; the list it stands in is best first."""

    node: NodeView
    why: str


def _name(node: NodeView) -> str:
    return node.record.name


def round_robin(state: State, nodes: Sequence[NodeView], key: str) -> list[Ranked]:
    """Each in turn, by name."""
    ordered = sorted(nodes, key=_name)
    start = state.turn % len(ordered)
    return [Ranked(node, f"turn {state.turn}") for node in ordered[start:] + ordered[:start]]


def weighted_round_robin(state: State, nodes: Sequence[NodeView], key: str) -> list[Ranked]:
    """In turn, a faster node more often (smooth weighted round robin, as in nginx).

    The counters advance in ``chosen``; ranking alone changes nothing.
    """
    ordered = sorted(nodes, key=lambda node: (-(node.weight + node.speed), _name(node)))
    return [Ranked(node, f"weight {node.speed:.1f}, credit {node.weight + node.speed:.1f}") for node in ordered]


def least_connections(state: State, nodes: Sequence[NodeView], key: str) -> list[Ranked]:
    """The fewest running requests first; equals in turn."""
    turn = {node.node.record.name: place for place, node in enumerate(round_robin(state, nodes, key))}
    ordered = sorted(nodes, key=lambda node: (len(node.running), turn[_name(node)]))
    return [Ranked(node, f"{len(node.running)} running") for node in ordered]


def resource_aware(state: State, nodes: Sequence[NodeView], key: str) -> list[Ranked]:
    """The least expected wait first.

    The wait is (running + 1) / measured speed, stretched by up to half when the node's CPU and memory are full
    with something else. Equals in turn.
    """
    turn = {node.node.record.name: place for place, node in enumerate(round_robin(state, nodes, key))}

    def wait(node: NodeView) -> float:
        pressure = max(node.load.memory_percent, node.load.cpu_percent if not node.running else 0.0) / 100
        return (len(node.running) + 1) / node.speed * (1 + 0.5 * pressure)

    ordered = sorted(nodes, key=lambda node: (round(wait(node), 6), turn[_name(node)]))
    return [
        Ranked(
            node,
            f"{len(node.running)} running, {node.speed:.1f} steps/s, CPU {node.load.cpu_percent:.0f} %, "
            f"memory {node.load.memory_percent:.0f} %",
        )
        for node in ordered
    ]


def consistent_hash(state: State, nodes: Sequence[NodeView], key: str) -> list[Ranked]:
    """The same conversation to the same node; a node that comes or goes moves only its share.

    Rendezvous (highest random weight) hashing, Thaler and Ravishankar 1998.
    """

    def score(node: NodeView) -> bytes:
        return hashlib.blake2b(f"{key}\0{_name(node)}".encode(), digest_size=8).digest()

    ordered = sorted(nodes, key=score, reverse=True)
    return [Ranked(node, f"hash {score(node).hex()[:6]}") for node in ordered]


POLICIES: dict[Policy, Callable[[State, Sequence[NodeView], str], list[Ranked]]] = {
    "round-robin": round_robin,
    "weighted-round-robin": weighted_round_robin,
    "least-connections": least_connections,
    "resource-aware": resource_aware,
    "consistent-hash": consistent_hash,
}


def rank(state: State, nodes: Sequence[NodeView], key: str) -> list[Ranked]:
    """Nodes in the order in which the state's policy would use them."""
    return POLICIES[state.policy](state, nodes, key) if nodes else []


def chosen(state: State, candidates: Sequence[NodeView], used: Sequence[NodeView]) -> None:
    """Advance the counters of the policies that take turns."""
    state.turn += 1
    total = sum(node.speed for node in candidates)
    for node in candidates:
        node.weight += node.speed
    for node in used:
        node.weight -= total / len(used)
