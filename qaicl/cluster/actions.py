"""What an orchestrator wants done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from qaicl.wire.messages import Message, NodeRecord, Outcome, RequestSpec, Token


@dataclass(frozen=True, slots=True)
class SendNode:
    """Send to a node; lost where it is not connected."""

    node: str
    message: Message


@dataclass(frozen=True, slots=True)
class SendClient:
    """Send to a client; lost where it has gone."""

    client: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class ConnectNode:
    """Open a connection to a node, replacing an older one of that name."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class DisconnectNode:
    """Close the connection for good."""

    node: str


@dataclass(frozen=True, slots=True)
class StoreAccept:
    """Make a request durable."""

    spec: RequestSpec


@dataclass(frozen=True, slots=True)
class StoreTokens:
    """Record tokens from position ``first`` on."""

    request: str
    first: int
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class StoreFinish:
    """Record how a request ended, once; ``tokens`` is how many must be recorded by then."""

    outcome: Outcome
    tokens: int


@dataclass(frozen=True, slots=True)
class StoreReassert:
    """Put a request back as it is known here, where the store has less of it."""

    spec: RequestSpec
    tokens: tuple[Token, ...]
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class StoreLoad:
    """Read one request."""

    request: str


@dataclass(frozen=True, slots=True)
class StoreLoadOpen:
    """Read all requests that have not ended."""


@dataclass(frozen=True, slots=True)
class StepDown:
    """A newer epoch was seen: stop leading, and acquire only above it."""

    epoch: int
    leader: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a log line."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, object] = field(default_factory=dict)


Action = (
    SendNode
    | SendClient
    | ConnectNode
    | DisconnectNode
    | StoreAccept
    | StoreTokens
    | StoreFinish
    | StoreReassert
    | StoreLoad
    | StoreLoadOpen
    | StepDown
    | Note
)
