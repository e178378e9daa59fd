"""``step``: what an orchestrator does about an event."""

from __future__ import annotations

from qaicl.cluster import clients, membership, requests, status
from qaicl.cluster.actions import Action, Note, SendClient, StepDown, StoreLoad, StoreLoadOpen, StoreReassert
from qaicl.cluster.events import (
    ClientSent,
    Event,
    LeaseGained,
    LeaseLost,
    NodeFound,
    NodeLost,
    NodeSent,
    StoreAccepted,
    StoreCameUp,
    StoreFinished,
    StoreLoaded,
    StoreMissing,
    StoreOpenRequests,
    StoreRecorded,
    StoreWentDown,
    Tick,
)
from qaicl.cluster.ids import first_attempt
from qaicl.cluster.state import NodeStatus, State
from qaicl.wire import messages as wire


def step(state: State, event: Event, now: float) -> list[Action]:
    """Apply one event.

    Args:
        state: changed in place.
        now: seconds on a clock that never goes back.

    Returns:
        What to do, in this order.
    """
    match event:
        case ClientSent(client, message):
            return _client(state, client, message, now)
        case NodeSent(node, message):
            return _node(state, node, message, now)
        case StoreRecorded(request, upto):
            return requests.recorded(state, request, upto, now)
        case StoreAccepted(request, existed):
            return requests.accepted(state, request, existed, now)
        case StoreFinished(request):
            return requests.finished(state, request)
        case StoreMissing(request):
            return requests.reassert(state, request)
        case StoreLoaded(request, stored):
            return requests.loaded(state, request, stored, now)
        case StoreOpenRequests(found):
            return requests.adopt_all(state, found, now)
        case Tick():
            return _tick(state, now)
        case NodeFound(record):
            return membership.found(state, record, now)
        case NodeLost(node, reason):
            return membership.lost(state, node, reason, now)
        case StoreWentDown():
            state.store_up = False
            return [Note("error", "store-down")]
        case StoreCameUp():
            return _store_up(state)
        case LeaseGained(epoch):
            return _lead(state, epoch, now)
        case LeaseLost(leader, epoch):
            return _follow(state, leader, epoch)


def _client(state: State, client: bytes, message: wire.Message, now: float) -> list[Action]:
    if not state.leading:
        return [SendClient(client, wire.NotLeader(state.leader))]
    match message:
        case wire.Submit(spec, have):
            return clients.submit(state, client, spec, have, now)
        case wire.Resume(request, have):
            return clients.resume(state, client, request, have)
        case wire.Cancel(request):
            return requests.cancel(state, request, now)
        case wire.StatusQuery():
            return [SendClient(client, wire.StatusReply(status.status(state, now)))]
        case wire.PlanQuery(mode, stages):
            return [SendClient(client, status.explain(state, mode, stages))]
        case wire.NodeCommand(node, action):
            return membership.command(state, client, node, action, now)
        case _:
            state.count("unexpected_messages")
            return []


def _node(state: State, name: str, message: wire.Message, now: float) -> list[Action]:
    if not state.leading:
        return []
    if (view := state.nodes.get(name)) is not None and view.status is not NodeStatus.dead:
        view.last_heard = now
    match message:
        case wire.Tokens():
            return requests.tokens(state, name, message, now)
        case wire.Heartbeat():
            return membership.heartbeat(state, name, message, now)
        case wire.Failed():
            return requests.failed(state, name, message, now)
        case wire.Register(record):
            return membership.registered(state, name, record, now)
        case wire.StaleEpoch(epoch, leader):
            if (epoch, leader) == (state.epoch, state.name) or epoch < state.epoch:
                return []
            return [StepDown(epoch, leader), *_follow(state, leader, epoch)]
        case _:
            state.count("unexpected_messages")
            return []


def _tick(state: State, now: float) -> list[Action]:
    if not state.leading:
        state.last_tick = now
        return []
    return [*membership.tick(state, now), *requests.tick(state, now)]


def _store_up(state: State) -> list[Action]:
    state.store_up = True
    actions: list[Action] = [Note("info", "store-up")]
    if state.leading:
        actions.append(StoreLoadOpen())
        for request in list(state.requests):
            actions.extend(requests.reassert(state, request))
        actions += _reassert_ended(state)
        actions += [StoreLoad(request) for request in state.lookups]
    return actions


def _reassert_ended(state: State) -> list[Action]:
    """Outcomes that clients have heard are put back where a failover of the store lost them."""
    return [StoreReassert(ended.spec, ended.tokens, ended.outcome) for ended in state.ended.values()]


def _lead(state: State, epoch: int, now: float) -> list[Action]:
    state.leading = True
    state.epoch = epoch
    state.leader = state.name
    state.attempts = first_attempt(epoch)
    state.last_tick = now
    state.next_ping = now + state.liveness.heartbeat
    for node in state.nodes.values():
        node.last_heard = now
    checks = [membership.check(state, name) for name in state.nodes]
    return [Note("info", "leading", {"epoch": epoch}), *_reassert_ended(state), StoreLoadOpen(), *checks]


def _follow(state: State, leader: str, epoch: int) -> list[Action]:
    was = state.leading
    state.leading = False
    state.leader = leader
    if not was:
        return []
    for node in state.nodes.values():
        node.status = NodeStatus.joining
        node.running.clear()
    actions: list[Action] = [
        Note("warning", "no-longer-leading", {"epoch": state.epoch, "newer": epoch, "leader": leader})
    ]
    told = {client for view in state.requests.values() for client in view.clients}
    told |= {client for waiting in state.lookups.values() for client in waiting}
    actions += [SendClient(client, wire.NotLeader(leader)) for client in sorted(told)]
    state.requests.clear()
    state.queue.clear()
    state.lookups.clear()
    return actions
