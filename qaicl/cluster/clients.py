"""What clients ask: submit, resume."""

from __future__ import annotations

from qaicl.cluster.actions import Action, SendClient, StoreAccept, StoreLoad
from qaicl.cluster.state import Ended, Phase, RequestView, State
from qaicl.wire.messages import Accepted, Completed, Refused, RequestSpec, Token, Tokens


def submit(state: State, client: bytes, spec: RequestSpec, have: int, now: float) -> list[Action]:
    """Take a request, once: an id that is known already only gains a listener."""
    if spec.id in state.requests or spec.id in state.ended or spec.id in state.lookups:
        return resume(state, client, spec.id, have)
    if refusal := _refusal(state, spec):
        state.count("refused")
        return [SendClient(client, refusal)]
    state.count("submitted")
    view = RequestView(spec, Phase.storing, now, 0, waiting_since=now, progress_at=now)
    view.clients[client] = have
    state.requests[spec.id] = view
    return [StoreAccept(spec)] if state.store_up else []


def _refusal(state: State, spec: RequestSpec) -> Refused | None:
    if len(state.requests) >= state.limits.queue:
        running = sum(view.phase is Phase.running for view in state.requests.values())
        waiting = len(state.requests) - running
        retry_after = round(min(30.0, max(1.0, waiting / max(1, running))), 1)
        return Refused(
            spec.id,
            "BusyError",
            "the cluster is busy",
            f"{len(state.requests)} requests are open, the limit is {state.limits.queue}",
            f"try again in {retry_after:g} s",
            retry_after,
        )
    models = {node.record.model for node in state.nodes.values() if node.record.model}
    if spec.model and models and spec.model not in models:
        return Refused(
            spec.id,
            "UnknownModelError",
            f"the cluster does not serve '{spec.model}'",
            f"it serves {', '.join(sorted(models))}",
            f"leave --model out, or start a cluster with: qaicl up --model {spec.model}",
        )
    if not any(message.content.strip() for message in spec.messages if message.role == "user"):
        return Refused(spec.id, "PromptError", "the prompt is empty", "there is nothing to answer", "give a question")
    return None


def resume(state: State, client: bytes, request: str, have: int) -> list[Action]:
    """Send a client what it lacks of a request, now and as it comes."""
    view = state.requests.get(request)
    if view is not None:
        view.clients[client] = have
        actions: list[Action] = []
        if view.phase is not Phase.storing and view.phase is not Phase.loading:
            actions.append(SendClient(client, Accepted(request, state.epoch)))
            actions += backlog(view, client)
        return actions
    if request in state.ended:
        return replay(state.ended[request], client, have, state.epoch)
    waiting = state.lookups.setdefault(request, {})
    waiting[client] = have
    return [StoreLoad(request)] if len(waiting) == 1 and state.store_up else []


def backlog(view: RequestView, client: bytes) -> list[Action]:
    """The recorded tokens that a client has not been sent."""
    sent = view.clients[client]
    if sent >= view.recorded:
        return []
    view.clients[client] = view.recorded
    news = tuple(view.tokens[sent : view.recorded])
    return [SendClient(client, Tokens(view.spec.id, view.attempt, sent, news, view.prompt_tokens))]


def replay(ended: Ended, client: bytes, have: int, epoch: int) -> list[Action]:
    """An ended request, from the token ``have`` on."""
    request = ended.outcome.id
    actions: list[Action] = [SendClient(client, Accepted(request, epoch))]
    rest: tuple[Token, ...] = ended.tokens[have:]
    if rest:
        actions.append(SendClient(client, Tokens(request, 0, have, rest, ended.outcome.prompt_tokens)))
    return [*actions, SendClient(client, Completed(ended.outcome))]
