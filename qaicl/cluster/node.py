"""``step`` of a node: tasks come, hidden states pass through, tokens go out. No I/O."""

from __future__ import annotations

from qaicl.cluster.ids import task_key
from qaicl.cluster.node_state import (
    Action,
    CloseTask,
    Compute,
    Computed,
    ConnectPeers,
    Event,
    LeaderSent,
    Link,
    LinkChanged,
    NodeState,
    Opened,
    OpenTask,
    PeerSent,
    Sampled,
    SendLeader,
    SendPeer,
    Stop,
    Task,
    TaskBroke,
    Tick,
)
from qaicl.inference.engine import Activation, Work
from qaicl.wire import messages as wire

PREFILL_CHUNK = 256
"""Positions a prefill step; long prompts go through in pieces so that others' tokens are not held up."""
EARLY_TASKS = 64
"""Tasks for which activations are held that come before the assignment."""
LINK_PATIENCE = 3.0
"""Seconds that a message waits for a link to open."""
ORPHAN_AFTER = 60.0
"""Seconds without any leader after which tasks are dropped."""


def step(state: NodeState, event: Event, now: float) -> list[Action]:
    """Apply one event; ``state`` is changed in place, the actions are to be done in order."""
    match event:
        case Computed():
            return _computed(state, event)
        case PeerSent(message, data):
            return _peer(state, message, data)
        case LeaderSent(conn, message):
            return _leader(state, conn, message, now)
        case Opened(key, prompt, finish):
            return _opened(state, key, prompt, finish)
        case TaskBroke():
            return _broke(state, event)
        case LinkChanged(peer, up):
            return _link(state, peer, up, now)
        case Sampled(load):
            state.load = load
            return []
        case Tick():
            return _tick(state, now)


# --- the leader ----------------------------------------------------------------------------------


def _leader(state: NodeState, conn: bytes, message: wire.Message, now: float) -> list[Action]:
    if not isinstance(
        message, wire.HealthCheck | wire.ConfigUpdate | wire.TaskAssignment | wire.Release | wire.Emergency
    ):
        state.dropped += 1
        return []
    newer = (message.epoch, message.leader) != (state.epoch, state.leader)
    if newer and message.epoch <= state.epoch:
        return [SendLeader(conn, wire.StaleEpoch(state.epoch, state.leader))]
    state.epoch, state.leader, state.conn, state.heard = message.epoch, message.leader, conn, now
    match message:
        case wire.HealthCheck(_, _, seq):
            state.seq = seq
            actions: list[Action] = []
            if state.introduced != conn:
                state.introduced = conn
                actions.append(SendLeader(conn, wire.Register(state.record)))
            return [*actions, SendLeader(conn, _heartbeat(state))]
        case wire.TaskAssignment():
            return _assigned(state, message)
        case wire.Release(_, _, request, attempt):
            task = state.tasks.get(request)
            if task is None or task.assignment.attempt > attempt:
                return []
            return _close(state, task)
        case wire.ConfigUpdate(_, _, peers):
            return _introduced(state, peers, now)
        case wire.Emergency(_, _, action):
            state.draining = action != "resume"
            return [Stop()] if action == "stop" else [SendLeader(conn, _heartbeat(state))]


def _heartbeat(state: NodeState) -> wire.Heartbeat:
    return wire.Heartbeat(
        state.record.name,
        state.record.incarnation,
        state.seq,
        state.load,
        tuple((request, task.assignment.attempt) for request, task in state.tasks.items()),
        tuple(sorted(name for name, link in state.links.items() if link.up is False)),
        state.draining,
    )


def _assigned(state: NodeState, message: wire.TaskAssignment) -> list[Action]:
    if message.incarnation != state.record.incarnation:
        return []
    actions: list[Action] = []
    held = state.tasks.get(message.request)
    if held is not None:
        if held.assignment.attempt >= message.attempt:
            return []
        actions += _close(state, held)
    task = Task(message, task_key(message.request, message.attempt), produced=len(message.generated))
    state.tasks[message.request] = task
    stage = message.stages[message.index]
    return [
        *actions,
        OpenTask(
            task.key, stage.first, stage.last, task.is_last, message.messages, message.sampling, message.generated
        ),
    ]


def _close(state: NodeState, task: Task) -> list[Action]:
    del state.tasks[task.assignment.request]
    return [CloseTask(task.key)]


def _introduced(state: NodeState, peers: tuple[wire.Peer, ...], now: float) -> list[Action]:
    others = {peer.name: peer for peer in peers if peer.name != state.record.name}
    for name in [name for name in state.links if name not in others]:
        del state.links[name]
    for name, peer in others.items():
        known = state.peers.get(name)
        if name not in state.links:
            state.links[name] = Link(since=now)
        elif known is None or known.incarnation != peer.incarnation:
            state.links[name].up = None
            state.links[name].since = now
    state.peers = others
    return [ConnectPeers(tuple(others.values()))]


# --- the engine ----------------------------------------------------------------------------------


def _find(state: NodeState, key: str) -> Task | None:
    task = state.tasks.get(key.rpartition("/")[0])
    return task if task is not None and task.key == key else None


def _opened(state: NodeState, key: str, prompt: tuple[int, ...], finish: str) -> list[Action]:
    task = _find(state, key)
    if task is None:
        return []
    task.opened = True
    task.prompt = len(prompt)
    sampling = task.assignment.sampling
    if task.is_last and finish:
        return [_tokens(state, task, (), finish), *_close(state, task)]
    actions: list[Action] = []
    if task.is_first and len(task.assignment.generated) < sampling.max_tokens:
        task.history = prompt + task.assignment.generated
        actions.append(_prefill(task))
    for message, data in task.held:
        actions += _hidden(state, task, message, data)
    task.held.clear()
    for early in state.early.pop(key, []):
        actions += _peer(state, early.message, early.data)
    return actions


def _prefill(task: Task) -> Compute:
    chunk = task.history[task.expected : task.expected + PREFILL_CHUNK]
    start = task.expected
    task.expected += len(chunk)
    return Compute(Work(task.key, start, chunk, sample=task.expected == len(task.history)))


def _computed(state: NodeState, event: Computed) -> list[Action]:
    task = _find(state, event.key)
    if task is None:
        return []
    actions: list[Action] = []
    if event.hidden is not None and not task.is_last:
        hidden = event.hidden
        message = wire.PartialResult(
            task.assignment.request,
            task.assignment.attempt,
            event.start,
            hidden.positions,
            hidden.dtype,
            event.sample,
        )
        actions += _send(state, task, message, hidden.data)
    if task.is_first and task.expected < len(task.history):
        actions.append(_prefill(task))
    if event.token is not None:
        actions += _emit(state, task, event.token)
    return actions


def _emit(state: NodeState, task: Task, token: wire.Token) -> list[Action]:
    actions: list[Action] = [_tokens(state, task, (token,), token.finish)]
    position = task.produced
    task.produced += 1
    if token.finish:
        return actions + _close(state, task)
    if task.is_first:
        return actions + _next(task, position, token.id)
    message = wire.NextToken(task.assignment.request, task.assignment.attempt, position, token.id)
    return actions + _send(state, task, message)


def _tokens(state: NodeState, task: Task, tokens: tuple[wire.Token, ...], finish: str) -> SendLeader:
    message = wire.Tokens(task.assignment.request, task.assignment.attempt, task.produced, tokens, task.prompt, finish)
    return SendLeader(state.conn, message)


def _next(task: Task, position: int, token: int) -> list[Action]:
    start = task.prompt + position
    if start != task.expected:
        return []
    task.expected += 1
    return [Compute(Work(task.key, start, (token,), sample=True))]


def _broke(state: NodeState, event: TaskBroke) -> list[Action]:
    task = _find(state, event.key)
    if task is None:
        return []
    failed = wire.Failed(
        task.assignment.request, task.assignment.attempt, event.what, event.why, event.fix, event.retryable
    )
    return [SendLeader(state.conn, failed), *_close(state, task)]


# --- the peers -----------------------------------------------------------------------------------


def _peer(state: NodeState, message: wire.Message, data: bytes | memoryview) -> list[Action]:
    if not isinstance(message, wire.PartialResult | wire.NextToken):
        state.dropped += 1
        return []
    task = state.tasks.get(message.request)
    if task is None or message.attempt > task.assignment.attempt:
        _hold_early(state, PeerSent(message, data), task_key(message.request, message.attempt))
        return []
    if message.attempt < task.assignment.attempt:
        state.dropped += 1
        return []
    if isinstance(message, wire.NextToken):
        return _next(task, message.position, message.token) if task.is_first and task.opened else []
    if task.is_first:
        state.dropped += 1
        return []
    if not task.opened:
        task.held.append((message, data))
        return []
    return _hidden(state, task, message, data)


def _hold_early(state: NodeState, sent: PeerSent, key: str) -> None:
    state.early.setdefault(key, []).append(sent)
    while len(state.early) > EARLY_TASKS:
        state.early.popitem(last=False)
        state.dropped += 1


def _hidden(state: NodeState, task: Task, message: wire.PartialResult, data: bytes | memoryview) -> list[Action]:
    if message.start < task.expected:
        state.dropped += 1
        return []
    if message.start > task.expected:
        return _broke(state, TaskBroke(task.key, "hidden states were lost on the way"))
    task.expected += message.positions
    hidden = Activation(data, message.dtype, message.positions)
    return [Compute(Work(task.key, message.start, hidden=hidden, sample=message.sample))]


def _send(state: NodeState, task: Task, message: wire.Message, data: bytes | memoryview = b"") -> list[Action]:
    peer = task.next_node
    # A peer that the leader has not introduced yet will be within a tick.
    link = state.links.setdefault(peer, Link(since=state.heard))
    send = SendPeer(peer, message, data)
    if link.up:
        return [send]
    if link.up is None:
        link.waiting.append(send)
        return []
    return _unreachable(state, task, peer)


def _unreachable(state: NodeState, task: Task, peer: str) -> list[Action]:
    failed = wire.Failed(
        task.assignment.request,
        task.assignment.attempt,
        f"{state.record.name} cannot reach {peer}",
        "the link between the two nodes is down",
        "check the network between them; run: qaicl doctor",
        blame=peer,
    )
    return [SendLeader(state.conn, failed), *_close(state, task)]


def _link(state: NodeState, peer: str, up: bool, now: float) -> list[Action]:
    link = state.links.get(peer)
    if link is None or link.up is up:
        return []
    link.up = up
    link.since = now
    waiting, link.waiting = link.waiting, []
    actions: list[Action] = []
    if up:
        actions += waiting
    else:
        for task in [task for task in state.tasks.values() if task.next_node == peer]:
            actions += _unreachable(state, task, peer)
    return [*actions, SendLeader(state.conn, _heartbeat(state))] if state.conn else actions


# --- time ----------------------------------------------------------------------------------------


def _tick(state: NodeState, now: float) -> list[Action]:
    actions: list[Action] = []
    for name, link in list(state.links.items()):
        if link.up is None and now - link.since > LINK_PATIENCE:
            actions += _link(state, name, False, now)
    if state.tasks and now - state.heard > ORPHAN_AFTER:
        for task in list(state.tasks.values()):
            actions += _close(state, task)
    return actions
