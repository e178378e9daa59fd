"""What can happen to an orchestrator."""

from __future__ import annotations

from dataclasses import dataclass

from qaicl.wire.messages import Message, NodeRecord, Outcome, RequestSpec, Token


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class ClientSent:
    """A client's message; ``client`` is its wire identity."""

    client: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class NodeSent:
    """A node's message."""

    node: str
    message: Message


@dataclass(frozen=True, slots=True)
class NodeFound:
    """The registry has this record."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The connection to a node closed, which a dead process shows at once."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseGained:
    """This orchestrator leads, with a new epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Another leads, or may: stop acting."""

    leader: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request as the store has it; ``outcome`` is None while it is open."""

    spec: RequestSpec
    tokens: tuple[Token, ...]
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class StoreWentDown:
    """The store does not answer; what was under way may or may not have happened."""


@dataclass(frozen=True, slots=True)
class StoreCameUp:
    """The store answers again; it may have lost its last writes."""


@dataclass(frozen=True, slots=True)
class StoreAccepted:
    """The request is durable. ``existed`` says that it was already there."""

    request: str
    existed: bool = False


@dataclass(frozen=True, slots=True)
class StoreRecorded:
    """The first ``upto`` tokens are durable."""

    request: str
    upto: int


@dataclass(frozen=True, slots=True)
class StoreFinished:
    """The outcome is durable."""

    request: str


@dataclass(frozen=True, slots=True)
class StoreMissing:
    """The store does not have what it should: the request, or some of its tokens."""

    request: str


@dataclass(frozen=True, slots=True)
class StoreLoaded:
    """A record that was asked for; None where there is none."""

    request: str
    stored: StoredRequest | None


@dataclass(frozen=True, slots=True)
class StoreOpenRequests:
    """All requests that have not ended, oldest first, for a new leader."""

    requests: tuple[StoredRequest, ...]


Event = (
    Tick
    | ClientSent
    | NodeSent
    | NodeFound
    | NodeLost
    | LeaseGained
    | LeaseLost
    | StoreWentDown
    | StoreCameUp
    | StoreAccepted
    | StoreRecorded
    | StoreFinished
    | StoreMissing
    | StoreLoaded
    | StoreOpenRequests
)
