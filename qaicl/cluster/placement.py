"""Where a request runs: filter the nodes, rank them, fit the layers, and say why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from qaicl.cluster.balancing import chosen, rank
from qaicl.cluster.state import NodeView, State
from qaicl.wire.messages import Mode, StageRef

DEFAULT_STAGES = 3
"""Stages of a split that names no number: one a node, three at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline, or none, with the reasons for it."""

    mode: str
    pipeline: tuple[StageRef, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of its placement; ``key`` is what consistent hashing hashes."""

    mode: Mode
    stages: int
    key: str
    avoid: frozenset[str] = frozenset()
    bad_links: frozenset[frozenset[str]] = field(default_factory=frozenset)


def partition(nodes: Sequence[NodeView]) -> list[tuple[int, int]] | None:
    """Contiguous layer ranges, one a node in this order, so that the slowest stage is as fast as can be.

    Dynamic programming over (node, layers placed): minimises the longest stage time from the measured seconds a
    layer, the head on the last node, within each node's ``max_layers``. None where the layers do not fit.
    """
    layers = nodes[0].record.layers
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for index, node in enumerate(nodes):
        is_last = index == len(nodes) - 1
        row: dict[int, tuple[float, int]] = {}
        for placed, (slowest, _) in best[-1].items():
            rest = len(nodes) - index - 1
            for count in range(1, min(node.record.max_layers, layers - placed - rest) + 1):
                seconds = count * node.record.layer_seconds + (node.record.ends_seconds if is_last else 0.0)
                candidate = (max(slowest, seconds), count)
                end = placed + count
                if end not in row or candidate[0] < row[end][0] - 1e-12:
                    row[end] = candidate
        best.append(row)
    if layers not in best[-1]:
        return None
    ranges: list[tuple[int, int]] = []
    end = layers
    for row in reversed(best[1:]):
        count = row[end][1]
        ranges.append((end - count, end - 1))
        end -= count
    return ranges[::-1]


def _candidates(state: State, wish: Wish) -> tuple[list[NodeView], list[str]]:
    reasons: list[str] = []
    free: list[NodeView] = []
    for name, node in sorted(state.nodes.items()):
        if not node.usable:
            reasons.append(f"{name} left out: {node.status}")
        elif name in wish.avoid:
            reasons.append(f"{name} left out: it failed this request before")
        elif len(node.running) >= state.limits.running_per_node:
            reasons.append(f"{name} left out: {len(node.running)} requests run there")
        else:
            free.append(node)
    trusted = [node for node in free if node.suspect_until <= state.last_tick]
    if trusted and len(trusted) < len(free):
        for node in free:
            if node not in trusted:
                reasons.append(
                    f"{node.record.name} left out: {node.failures} failures in a row, tried again in seconds"
                )
        free = trusted
    kinds = Counter((node.record.digest, node.record.precision) for node in free)
    if len(kinds) > 1:
        kind = max(kinds, key=lambda kind: (kinds[kind], kind))
        for node in free:
            if (node.record.digest, node.record.precision) != kind:
                reasons.append(f"{node.record.name} left out: other weights or precision ({node.record.precision})")
        free = [node for node in free if (node.record.digest, node.record.precision) == kind]
    return free, reasons


def _linked(one: NodeView, other: NodeView, bad: frozenset[frozenset[str]]) -> bool:
    names = one.record.name, other.record.name
    return names[1] not in one.unreachable and names[0] not in other.unreachable and frozenset(names) not in bad


def _connected(ranked: Sequence[NodeView], count: int, bad: frozenset[frozenset[str]]) -> list[NodeView]:
    """The best-ranked ``count`` nodes that can all reach each other; fewer where there are no such."""
    found: list[NodeView] = []
    for start in range(len(ranked)):
        group: list[NodeView] = []
        for node in [*ranked[start:], *ranked[:start]]:
            if all(_linked(node, other, bad) for other in group):
                group.append(node)
            if len(group) == count:
                return group
        if len(group) > len(found):
            found = group
    return found


def _split(
    ranked: Sequence[NodeView], stages: int, bad: frozenset[frozenset[str]], reasons: list[str], fewest: bool
) -> tuple[list[NodeView], list[tuple[int, int]]] | None:
    layers = ranked[0].record.layers
    counts = range(2, min(stages, len(ranked), layers) + 1)
    for count in counts if fewest else reversed(counts):
        group = _connected(ranked, count, bad)
        if len(group) < count:
            continue
        ranges = partition(group)
        if ranges is None:
            reasons.append(f"{count} stages do not fit into the memory of these nodes")
            continue
        if count < stages and not fewest:
            reasons.append(f"{stages} stages wanted, {count} possible now")
        return group, ranges
    return None


def place(state: State, wish: Wish, commit: bool = True) -> Plan | None:
    """Choose a pipeline.

    ``replica`` and ``auto`` take one node where the whole model fits: a split of one request is never faster than
    the fastest node alone, it only makes room for larger models. ``split`` falls back to one node where no split
    is possible.

    Args:
        commit: advance the turn-taking counters; False for a question such as ``plan --explain``.

    Returns:
        None where no node can serve now.
    """
    free, reasons = _candidates(state, wish)
    if not free:
        return None
    ranking = rank(state, free, wish.key)
    ranked = [entry.node for entry in ranking]
    whole = [entry for entry in ranking if entry.node.record.max_layers >= entry.node.record.layers]
    if wish.mode == "split" or not whole:
        stages = wish.stages or (DEFAULT_STAGES if wish.mode == "split" else len(ranked))
        fewest = wish.mode != "split"
        found = _split(ranked, stages, wish.bad_links, reasons, fewest) if stages > 1 else None
        if found is not None:
            group, ranges = found
            why = {entry.node.record.name: entry.why for entry in ranking}
            pipeline = tuple(
                StageRef(node.record.name, first, last) for node, (first, last) in zip(group, ranges, strict=True)
            )
            for stage in pipeline:
                seconds = state.nodes[stage.node].record.layer_seconds
                reasons.append(
                    f"layers {stage.first}-{stage.last} on {stage.node}: {why[stage.node]}, "
                    f"{seconds * 1000:.2f} ms a layer"
                )
            if commit:
                chosen(state, free, group)
            _warn_if_slower(whole_nodes=[entry.node for entry in whole], group=group, ranges=ranges, reasons=reasons)
            return Plan("split", pipeline, tuple(reasons))
        if whole and wish.stages != 1:
            reasons.append("no split is possible now: fell back to one node")
    if not whole:
        return None
    best = whole[0]
    if commit:
        chosen(state, free, [best.node])
    reasons.append(f"all layers on {best.node.record.name} ({state.policy}): {best.why}")
    stage = StageRef(best.node.record.name, 0, best.node.record.layers - 1)
    return Plan("replica", (stage,), tuple(reasons))


def _warn_if_slower(
    whole_nodes: Sequence[NodeView],
    group: Sequence[NodeView],
    ranges: Sequence[tuple[int, int]],
    reasons: list[str],
) -> None:
    if not whole_nodes:
        return
    split = sum(
        (last - first + 1) * node.record.layer_seconds for node, (first, last) in zip(group, ranges, strict=True)
    )
    split += group[-1].record.ends_seconds
    alone = min(1.0 / node.speed for node in whole_nodes)
    if split > alone * 1.05:
        reasons.append(
            f"one node alone would be faster for one request: {alone * 1000:.1f} ms a token against {split * 1000:.1f}"
        )
