"""What an orchestrator knows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

from qaicl.settings import LimitSettings, LivenessSettings, Policy
from qaicl.wire.messages import Failover, Load, NodeRecord, Outcome, RequestSpec, StageRef, Token

FINISHED_KEPT = 256
"""Ended requests held in memory for clients that ask again; older ones are read from the store."""


class NodeStatus(StrEnum):
    """``joining``: found, not yet heard; ``dead``: silent or closed, still probed."""

    joining = "joining"
    alive = "alive"
    draining = "draining"
    dead = "dead"


@dataclass(slots=True)
class NodeView:
    """A node as the leader sees it."""

    record: NodeRecord
    status: NodeStatus
    last_heard: float
    joined: float
    load: Load = field(default_factory=Load)
    running: set[str] = field(default_factory=set)
    unreachable: frozenset[str] = frozenset()
    answered: int = 0
    failures: int = 0
    """Tasks that failed there since the last token."""
    suspect_until: float = 0.0
    """After several failures in a row: not used before this time, unless there is no other."""
    removed: bool = False
    """Told to stop: forgotten as soon as it is gone."""
    commanded: int = 0
    """The last health check before the operator's last command; older heartbeats do not know of it."""
    weight: float = 0.0
    """Running counter of smooth weighted round robin."""

    @property
    def usable(self) -> bool:
        """May it be given work?"""
        return self.status is NodeStatus.alive

    @property
    def speed(self) -> float:
        """Decode steps of the whole model a second, as measured by the node; 1.0 where it did not measure."""
        seconds = self.record.layer_seconds * self.record.layers + self.record.ends_seconds
        return 1.0 / seconds if seconds > 0 else 1.0


class Phase(StrEnum):
    """Where a request is in its life.

    ``storing``: not yet durable; ``loading``: its record is being read; ``waiting``: in the queue; ``backoff``: waiting
    for a retry; ``running``: a pipeline works on it; ``ending``: the outcome is being recorded.
    """

    storing = "storing"
    loading = "loading"
    waiting = "waiting"
    backoff = "backoff"
    running = "running"
    ending = "ending"


@dataclass(slots=True)
class RequestView:
    """A request that has not ended."""

    spec: RequestSpec
    phase: Phase
    received: float
    attempt: int
    tokens: list[Token] = field(default_factory=list)
    recorded: int = 0
    """Tokens that the store has confirmed; only these are shown."""
    clients: dict[bytes, int] = field(default_factory=dict)
    """Who listens, and how many tokens each has been sent."""
    pipeline: tuple[StageRef, ...] = ()
    mode: str = ""
    reasons: tuple[str, ...] = ()
    prompt_tokens: int = 0
    waiting_since: float = 0.0
    retry_at: float = 0.0
    retries: int = 0
    """Failed plans since the last token."""
    losses: int = 0
    """Nodes and links lost since the last token."""
    progress_at: float = 0.0
    assigned_at: float | None = None
    first_token_at: float | None = None
    failovers: list[Failover] = field(default_factory=list)
    fault_at: float | None = None
    """Last token before the fault that is being repaired; None when all is well."""
    avoid: set[str] = field(default_factory=set)
    """Nodes that failed this request since its last token."""
    bad_links: set[frozenset[str]] = field(default_factory=set)
    outcome: Outcome | None = None

    @property
    def finish(self) -> str:
        """Why generation ended, or "" while it goes on."""
        return self.tokens[-1].finish if self.tokens else ""


@dataclass(slots=True)
class Ended:
    """A request that has ended, for clients that come back."""

    spec: RequestSpec
    tokens: tuple[Token, ...]
    outcome: Outcome


@dataclass(slots=True)
class State:
    """Everything an orchestrator knows; changed only by ``step``."""

    name: str
    limits: LimitSettings
    liveness: LivenessSettings
    policy: Policy
    leading: bool = False
    epoch: int = 0
    leader: str = ""
    """Who leads, as far as this orchestrator knows."""
    store_up: bool = True
    attempts: int = 0
    turn: int = 0
    """Counter of round robin."""
    seq: int = 0
    next_ping: float = 0.0
    introduce: bool = False
    """The nodes are to be told of each other at the next tick: once, however many have come."""
    last_tick: float = 0.0
    nodes: dict[str, NodeView] = field(default_factory=dict)
    requests: dict[str, RequestView] = field(default_factory=dict)
    queue: OrderedDict[str, None] = field(default_factory=OrderedDict)
    ended: OrderedDict[str, Ended] = field(default_factory=OrderedDict)
    lookups: dict[str, dict[bytes, int]] = field(default_factory=dict)
    """Clients waiting for a record that is being read from the store."""
    counters: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that ``status`` reports."""
        self.counters[name] = self.counters.get(name, 0) + by
