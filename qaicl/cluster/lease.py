"""Who leads: a lease in Redis with a growing epoch, seen from one orchestrator.

The lease alone would need its whole TTL after a crash. A standby that sees the leader's connection close takes the
lease over at once, by compare-and-set on the epoch. That is safe even when the leader lives: the store and the nodes
refuse the older epoch. It is done once an epoch only, so that two that cannot see each other don't take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

STANDBY_POLLS_PER_TTL = 8
RENEWALS_PER_TTL = 4


class Ask(StrEnum):
    """What to ask of the store."""

    acquire = "acquire"
    renew = "renew"
    takeover = "takeover"


@dataclass(frozen=True, slots=True)
class AskLease:
    """One call to the store: ``epoch`` is the one held (renew) or replaced (takeover), ``floor`` must be exceeded."""

    kind: Ask
    epoch: int
    floor: int


@dataclass(slots=True)
class Lease:
    """One orchestrator's view of the lease."""

    name: str
    ttl: float
    epoch: int = 0
    """The epoch led, or 0."""
    seen: int = 0
    """The highest epoch heard of."""
    leader: str = ""
    next_ask: float = 0.0
    asking: bool = False
    took_over: int = 0
    """The last epoch that was taken over from a leader that had gone."""


@dataclass(frozen=True, slots=True)
class Change:
    """Leadership has changed: ``leading`` tells whether it is here now."""

    leading: bool
    leader: str
    epoch: int


def tick(lease: Lease, now: float) -> AskLease | None:
    """Renew or try to acquire when it is time; one call at a time."""
    if lease.asking or now < lease.next_ask:
        return None
    lease.asking = True
    if lease.epoch:
        lease.next_ask = now + lease.ttl / RENEWALS_PER_TTL
        return AskLease(Ask.renew, lease.epoch, lease.seen)
    lease.next_ask = now + lease.ttl / STANDBY_POLLS_PER_TTL
    return AskLease(Ask.acquire, 0, lease.seen)


def leader_gone(lease: Lease, leader: str, now: float) -> AskLease | None:
    """The leader's connection closed: take over, once an epoch."""
    if lease.epoch or lease.asking or leader != lease.leader or lease.took_over >= lease.seen:
        return None
    lease.took_over = lease.seen
    lease.asking = True
    lease.next_ask = now + lease.ttl / STANDBY_POLLS_PER_TTL
    return AskLease(Ask.takeover, lease.seen, lease.seen)


def granted(lease: Lease, epoch: int) -> Change | None:
    """The store says: you lead with this epoch."""
    lease.asking = False
    lease.seen = max(lease.seen, epoch)
    if lease.epoch == epoch:
        return None
    lease.epoch, lease.leader = epoch, lease.name
    return Change(True, lease.name, epoch)


def refused(lease: Lease, holder: str, epoch: int) -> Change | None:
    """The store says: another holds it, or a newer epoch exists."""
    lease.asking = False
    lease.seen = max(lease.seen, epoch)
    was_leading, was = lease.epoch > 0, lease.leader
    lease.epoch = 0
    lease.leader = holder if holder != lease.name else ""
    if was_leading or was != lease.leader:
        return Change(False, lease.leader, epoch)
    return None


def unanswered(lease: Lease) -> None:
    """The store did not answer; ask again when it is time."""
    lease.asking = False


def superseded(lease: Lease, epoch: int, leader: str, now: float) -> None:
    """A node refused us for a newer epoch: stop leading, and acquire only above it."""
    lease.seen = max(lease.seen, epoch)
    lease.epoch = 0
    lease.leader = leader if leader != lease.name else ""
    lease.next_ask = now
