"""What an orchestrator tells of itself."""

from __future__ import annotations

import hashlib

from qaicl.cluster.placement import Wish, place
from qaicl.cluster.state import NodeView, Phase, State
from qaicl.wire.messages import Mode, PlanReply


def status(state: State, now: float) -> dict[str, object]:
    """The cluster as the leader sees it, ready for JSON."""
    phases = [view.phase for view in state.requests.values()]
    running = sum(phase is Phase.running for phase in phases)
    return {
        "leader": state.leader,
        "epoch": state.epoch,
        "policy": state.policy,
        "nodes": [_node(state, node, now) for _, node in sorted(state.nodes.items())],
        "queue": {"waiting": len(phases) - running, "running": running, "limit": state.limits.queue},
        "store": "up" if state.store_up else "down",
        "counters": dict(sorted(state.counters.items())),
    }


def _node(state: State, node: NodeView, now: float) -> dict[str, object]:
    record = node.record
    stages = sorted(
        {
            (stage.first, stage.last)
            for request in node.running
            if (view := state.requests.get(request)) is not None
            for stage in view.pipeline
            if stage.node == record.name
        }
    )
    return {
        "name": record.name,
        "pid": record.pid,
        "host": record.host,
        "state": str(node.status),
        "last_heartbeat_ms": round((now - node.last_heard) * 1000, 1),
        "stages": [list(stage) for stage in stages],
        "running": len(node.running),
        "answered": node.answered,
        "cpu_percent": node.load.cpu_percent,
        "memory_percent": node.load.memory_percent,
        "step_ms": node.load.step_ms,
        "address": record.endpoint,
        "incarnation": record.incarnation,
        "model": record.model,
        "digest": record.digest,
        "precision": record.precision,
        "layers": record.layers,
        "steps_per_second": round(node.speed, 2),
        "unreachable": sorted(node.unreachable),
    }


def explain(state: State, mode: Mode, stages: int) -> PlanReply:
    """Where a request would run now, and why; nothing is changed."""
    plan = place(state, Wish(mode, stages, hashlib.blake2b(mode.encode()).hexdigest()), commit=False)
    if plan is None:
        reasons = tuple(f"{name}: {node.status}" for name, node in sorted(state.nodes.items()))
        return PlanReply("none", (), (*reasons, "no node can serve now"))
    return PlanReply(plan.mode, plan.pipeline, plan.reasons)
