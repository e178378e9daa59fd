"""Which nodes a request runs on: the queue, the placement, the assignment and its end."""

from __future__ import annotations

import msgspec

from qaicl.cluster.actions import Action, SendNode
from qaicl.cluster.placement import Plan, Wish, place
from qaicl.cluster.state import Phase, RequestView, State
from qaicl.wire import messages as wire


def wait(state: State, view: RequestView, now: float, first: bool = False) -> None:
    """Queue the request; ``first`` puts it before the others, as it has waited already."""
    view.phase = Phase.waiting
    view.waiting_since = now
    state.queue[view.spec.id] = None
    if first:
        state.queue.move_to_end(view.spec.id, last=False)


def schedule(state: State, now: float) -> list[Action]:
    """Give waiting requests to nodes, oldest first, until no node can take one."""
    actions: list[Action] = []
    if not state.store_up:
        return actions
    for request in list(state.queue):
        view = state.requests[request]
        plan = place(state, _wish(view))
        if plan is None and (view.avoid or view.bad_links):
            view.avoid.clear()
            view.bad_links.clear()
            plan = place(state, _wish(view))
        if plan is None:
            break
        del state.queue[request]
        actions += _assign(state, view, plan, now)
    return actions


def _wish(view: RequestView) -> Wish:
    spec = view.spec
    key = "\n".join(message.content for message in spec.messages)
    return Wish(spec.mode, spec.stages, key, frozenset(view.avoid), frozenset(view.bad_links))


def _assign(state: State, view: RequestView, plan: Plan, now: float) -> list[Action]:
    state.attempts += 1
    old = view.pipeline
    view.attempt = state.attempts
    view.pipeline, view.mode, view.reasons = plan.pipeline, plan.mode, plan.reasons
    view.phase = Phase.running
    view.progress_at = now
    if view.assigned_at is None:
        view.assigned_at = now
    if view.fault_at is not None:
        _name_replacement(view, old)
    generated = tuple(token.id for token in view.tokens)
    actions: list[Action] = []
    for index, stage in enumerate(plan.pipeline):
        node = state.nodes[stage.node]
        node.running.add(view.spec.id)
        task = wire.TaskAssignment(
            state.epoch,
            state.name,
            view.spec.trace,
            view.spec.id,
            view.attempt,
            node.record.incarnation,
            plan.pipeline,
            index,
            view.spec.messages,
            view.spec.sampling,
            generated,
        )
        actions.append(SendNode(stage.node, task))
    return actions


def _name_replacement(view: RequestView, old: tuple[wire.StageRef, ...]) -> None:
    kept = {stage.node for stage in old}
    fresh = [stage.node for stage in view.pipeline if stage.node not in kept]
    last = view.failovers[-1]
    to_node = fresh[0] if fresh else view.pipeline[min(last.stage, len(view.pipeline) - 1)].node
    view.failovers[-1] = msgspec.structs.replace(last, to_node=to_node)


def leave(state: State, view: RequestView) -> list[Action]:
    """Take the request from its nodes, and tell them."""
    actions: list[Action] = []
    for stage in view.pipeline:
        node = state.nodes.get(stage.node)
        if node is None:
            continue
        node.running.discard(view.spec.id)
        release = wire.Release(state.epoch, state.name, view.spec.id, view.attempt)
        actions.append(SendNode(stage.node, release))
    return actions
