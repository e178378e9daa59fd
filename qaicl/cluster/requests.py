"""The life of a request: durable, queued, placed, answered token by token, moved when a node dies, ended once."""

from __future__ import annotations

import zlib

import msgspec

from qaicl.cluster import clients
from qaicl.cluster.actions import (
    Action,
    Note,
    SendClient,
    StoreAccept,
    StoreFinish,
    StoreLoad,
    StoreReassert,
    StoreTokens,
)
from qaicl.cluster.dispatch import leave, schedule, wait
from qaicl.cluster.events import StoredRequest
from qaicl.cluster.state import FINISHED_KEPT, Ended, Phase, RequestView, State
from qaicl.wire import messages as wire

SUSPECT_FOR = 5.0
"""Seconds that a node with several failures in a row is passed over; then it is tried again."""
LOSSES_PER_RETRY = 3
"""How many nodes or links a request may lose, for each retry that it has, without a new token."""
NOBODY_PATIENCE = 10.0
"""Seconds that a request waits for any node at all; a node that comes back is used again within this time."""

# --- from the store ------------------------------------------------------------------------------


def accepted(state: State, request: str, existed: bool, now: float) -> list[Action]:
    """The store has the request; one that it had before is read instead of begun again."""
    view = state.requests.get(request)
    if view is None or view.phase is not Phase.storing:
        return []
    if existed:
        view.phase = Phase.loading
        return [StoreLoad(request)]
    return _admit(state, view, now)


def _admit(state: State, view: RequestView, now: float) -> list[Action]:
    actions: list[Action] = []
    for client in view.clients:
        actions.append(SendClient(client, wire.Accepted(view.spec.id, state.epoch)))
        actions += clients.backlog(view, client)
    if view.finish:
        return actions + end(state, view, now)
    wait(state, view, now)
    return actions + schedule(state, now)


def adopt_all(state: State, found: tuple[StoredRequest, ...], now: float) -> list[Action]:
    """Take over what an earlier leader had not ended."""
    actions: list[Action] = []
    for stored in found:
        actions += _adopt(state, stored, now)
    return actions


def _adopt(state: State, stored: StoredRequest, now: float) -> list[Action]:
    request = stored.spec.id
    view = state.requests.get(request)
    if request in state.ended:
        return []
    if view is None:
        view = RequestView(stored.spec, Phase.loading, now, 0, progress_at=now)
        state.requests[request] = view
        state.count("adopted")
    elif view.phase not in (Phase.storing, Phase.loading):
        return []
    view.clients.update(state.lookups.pop(request, {}))
    view.tokens = list(stored.tokens)
    view.recorded = len(view.tokens)
    return _admit(state, view, now)


def loaded(state: State, request: str, stored: StoredRequest | None, now: float) -> list[Action]:
    """A record has been read: an ended request is replayed, an open one is taken on."""
    view = state.requests.get(request)
    if view is not None and view.phase is not Phase.loading:
        waiting: dict[bytes, int] = {}
    else:
        waiting = dict(view.clients) if view is not None else {}
        waiting.update(state.lookups.pop(request, {}))
    if stored is None:
        if view is not None and view.phase is Phase.loading:
            view.phase = Phase.storing
            return [StoreAccept(view.spec)]
        return [SendClient(client, _unknown(request)) for client in waiting]
    if stored.outcome is None:
        state.lookups[request] = waiting
        return _adopt(state, stored, now)
    actions: list[Action] = []
    if view is not None:
        actions += leave(state, view)
        state.queue.pop(request, None)
        waiting.update(view.clients)
        del state.requests[request]
    ended = Ended(stored.spec, stored.tokens, stored.outcome)
    _keep(state, ended)
    for client, have in waiting.items():
        actions += clients.replay(ended, client, have, state.epoch)
    return actions


def _unknown(request: str) -> wire.Refused:
    return wire.Refused(
        request,
        "RequestFailedError",
        f"no request '{request}' is known",
        "it was never accepted, or its result was kept for its time and is gone",
        "ask again",
    )


def recorded(state: State, request: str, upto: int, now: float) -> list[Action]:
    """Tokens are durable: show them."""
    view = state.requests.get(request)
    if view is None or upto <= view.recorded:
        return []
    view.recorded = min(upto, len(view.tokens))
    return [action for client in view.clients for action in clients.backlog(view, client)]


def finished(state: State, request: str) -> list[Action]:
    """The outcome is durable: tell the clients and forget the request."""
    view = state.requests.get(request)
    if view is None or view.outcome is None:
        return []
    view.recorded = len(view.tokens)
    actions = [action for client in view.clients for action in clients.backlog(view, client)]
    actions += [SendClient(client, wire.Completed(view.outcome)) for client in view.clients]
    del state.requests[request]
    _keep(state, Ended(view.spec, tuple(view.tokens), view.outcome))
    state.count("failed" if view.outcome.error else "completed")
    return actions


def _keep(state: State, ended: Ended) -> None:
    state.ended[ended.outcome.id] = ended
    while len(state.ended) > FINISHED_KEPT:
        state.ended.popitem(last=False)


def reassert(state: State, request: str) -> list[Action]:
    """Put a request back into a store that may have lost it."""
    view = state.requests.get(request)
    if view is None:
        return []
    if view.phase is Phase.storing:
        return [StoreAccept(view.spec)]
    if view.phase is Phase.loading:
        return [StoreLoad(request)]
    return [StoreReassert(view.spec, tuple(view.tokens), view.outcome)]


# --- from the nodes ------------------------------------------------------------------------------


def tokens(state: State, name: str, message: wire.Tokens, now: float) -> list[Action]:
    """New tokens from a last stage: record them; anything out of place is dropped."""
    view = state.requests.get(message.request)
    if (
        view is None
        or view.phase is not Phase.running
        or message.attempt != view.attempt
        or view.pipeline[-1].node != name
        or view.finish
    ):
        state.count("stale_tokens")
        return []
    skip = len(view.tokens) - message.first
    if skip < 0:
        return failed(state, name, wire.Failed(message.request, message.attempt, "tokens were lost on the way"), now)
    news = message.tokens[skip:]
    view.prompt_tokens = message.prompt_tokens or view.prompt_tokens
    if not news and not message.finish:
        return []
    state.nodes[name].failures = 0
    view.progress_at = now
    view.retries = view.losses = 0
    view.avoid.clear()
    view.bad_links.clear()
    if view.first_token_at is None:
        view.first_token_at = now
    if view.fault_at is not None:
        gap = round((now - view.fault_at) * 1000, 1)
        view.failovers[-1] = msgspec.structs.replace(view.failovers[-1], gap_ms=gap)
        view.fault_at = None
    actions: list[Action] = []
    if news:
        first = len(view.tokens)
        view.tokens += news
        if state.store_up:
            actions.append(StoreTokens(message.request, first, news))
    if message.finish:
        actions += end(state, view, now, finish=message.finish)
    return actions


def end(
    state: State, view: RequestView, now: float, finish: str = "", error: wire.Failed | None = None
) -> list[Action]:
    """Decide the outcome and have it recorded."""
    actions = leave(state, view) if error else []
    for stage in view.pipeline:
        if (node := state.nodes.get(stage.node)) is not None:
            node.running.discard(view.spec.id)
            node.answered += not error
    state.queue.pop(view.spec.id, None)
    view.phase = Phase.ending
    assigned = view.assigned_at if view.assigned_at is not None else now
    first = view.first_token_at if view.first_token_at is not None else now
    view.outcome = wire.Outcome(
        id=view.spec.id,
        trace=view.spec.trace,
        model=view.spec.model or _model(state),
        mode=view.mode,
        pipeline=view.pipeline,
        prompt_tokens=view.prompt_tokens,
        finish_reason="error" if error else (finish or view.finish),
        seed=view.spec.sampling.seed,
        queued_ms=round((assigned - view.received) * 1000, 3),
        first_token_ms=round((first - view.received) * 1000, 3),
        total_ms=round((now - view.received) * 1000, 3),
        failovers=tuple(view.failovers),
        reasons=view.reasons,
        error=error.what if error else "",
        why=error.why if error else "",
        fix=error.fix if error else "",
    )
    if state.store_up:
        actions.append(StoreFinish(view.outcome, len(view.tokens)))
    return actions + (schedule(state, now) if state.queue else [])


def _model(state: State) -> str:
    """What the cluster serves, for a request that named no model."""
    return next((node.record.model for node in state.nodes.values()), "")


def failed(state: State, name: str, message: wire.Failed, now: float) -> list[Action]:
    """A stage could not go on: plan again after a while, or give up with the reason."""
    view = state.requests.get(message.request)
    if view is None or view.phase is not Phase.running or message.attempt != view.attempt:
        return []
    if not message.retryable:
        return end(state, view, now, error=message)
    state.count("task_failures")
    if message.blame:
        # Its process may have died, which the leader will hear in a moment: plan without it at once.
        view.bad_links.add(frozenset((name, message.blame)))
        view.avoid.add(message.blame)
    else:
        node = state.nodes[name]
        node.failures += 1
        if node.failures >= state.liveness.missed:
            node.suspect_until = now + SUSPECT_FOR
        view.avoid.add(name)
    note = Note(
        "warning", "task-failed", {"request": view.spec.id, "node": name, "what": message.what, "why": message.why}
    )
    culprit = message.blame or name
    stage = next((index for index, ref in enumerate(view.pipeline) if ref.node == culprit), 0)
    heard = state.nodes[culprit].last_heard if culprit in state.nodes else now
    fault = wire.Failover(stage, culprit, reason=message.what, detected_ms=round((now - heard) * 1000, 1))
    return [note, *_replan(state, view, fault, now, message, lost=bool(message.blame))]


def fail_over(state: State, node: str, detected: float, reason: str, now: float) -> list[Action]:
    """A node is gone: move everything that ran there.

    Args:
        detected: seconds from its last sign of life until it was noticed.
    """
    actions: list[Action] = []
    for view in list(state.requests.values()):
        if view.phase is not Phase.running:
            continue
        for index, stage in enumerate(view.pipeline):
            if stage.node == node:
                fault = wire.Failover(index, node, reason=reason, detected_ms=round(detected * 1000, 1))
                error = wire.Failed(view.spec.id, view.attempt, f"node {node} was lost", reason)
                actions += _replan(state, view, fault, now, error, lost=True)
                break
    return actions + schedule(state, now)


def _replan(
    state: State, view: RequestView, fault: wire.Failover, now: float, error: wire.Failed, lost: bool
) -> list[Action]:
    actions = leave(state, view)
    if view.fault_at is None:
        view.fault_at = view.progress_at
    view.failovers.append(fault)
    if lost:
        view.losses += 1
    else:
        view.retries += 1
    # A lost node is not the request's fault, but one that loses node after node must not take them all.
    if view.retries > state.limits.retries or view.losses > LOSSES_PER_RETRY * max(1, state.limits.retries):
        tries = view.retries + view.losses
        why = f"{error.why or error.what}; it was tried {tries} times without a new token"
        return actions + end(state, view, now, error=msgspec.structs.replace(error, why=why))
    if not lost:
        view.phase = Phase.backoff
        view.retry_at = now + backoff(state, view)
        return actions
    wait(state, view, now, first=True)
    return actions + schedule(state, now)


def backoff(state: State, view: RequestView) -> float:
    """Seconds until the next try: doubling, with a jitter of half that is drawn from the request's id."""
    base = state.limits.retry_base * float(2 ** (view.retries - 1))
    jitter = zlib.crc32(f"{view.spec.id}/{view.attempt}".encode()) / 0xFFFFFFFF
    return base * (0.75 + 0.5 * jitter)


def cancel(state: State, request: str, now: float) -> list[Action]:
    """Nobody wants the answer any more."""
    view = state.requests.get(request)
    if view is None or view.phase in (Phase.storing, Phase.loading, Phase.ending):
        return []
    return end(state, view, now, error=wire.Failed(request, view.attempt, "cancelled", "the client asked for it"))


# --- time ----------------------------------------------------------------------------------------


def tick(state: State, now: float) -> list[Action]:
    """Retries that are due, tasks that stand still, requests that wait for nothing."""
    actions: list[Action] = []
    timeout = state.limits.task_timeout
    for view in list(state.requests.values()):
        if view.phase is Phase.backoff and now >= view.retry_at:
            wait(state, view, now, first=True)
        elif view.phase is Phase.running and now - view.progress_at > timeout:
            last = view.pipeline[-1].node
            actions += failed(
                state,
                last,
                wire.Failed(view.spec.id, view.attempt, f"no token for {timeout:g} s", "a stage stands still"),
                now,
            )
        elif view.phase is Phase.waiting and now - view.waiting_since > NOBODY_PATIENCE and not _anyone(state):
            error = wire.Failed(
                view.spec.id,
                view.attempt,
                "no node can serve",
                f"none has been fit for work for {NOBODY_PATIENCE:g} s",
                "run: qaicl status",
            )
            actions += end(state, view, now, error=error)
    return actions + (schedule(state, now) if state.queue else [])


def _anyone(state: State) -> bool:
    return any(node.usable for node in state.nodes.values())
