"""The store as the simulator has it: the promises of the Lua scripts, in memory, with restarts and lost writes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qaicl.cluster.events import StoredRequest
from qaicl.wire.messages import NodeRecord, Outcome, RequestSpec, Token


@dataclass
class Entry:
    """One request's record."""

    spec: RequestSpec
    tokens: list[Token] = field(default_factory=list)
    outcome: Outcome | None = None


@dataclass
class Content:
    """Everything that a failover may roll back."""

    counter: int = 0
    holder: str = ""
    lease_until: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)
    nodes: dict[str, tuple[NodeRecord, float]] = field(default_factory=dict)

    def copy(self) -> Content:
        """As deep as anything changes: records of ended requests are shared."""
        entries = {
            request: entry if entry.outcome is not None else replace(entry, tokens=list(entry.tokens))
            for request, entry in self.entries.items()
        }
        return replace(self, entries=entries, nodes=dict(self.nodes))


class SimStore:
    """One Redis. ``fencing`` off accepts writes of any epoch."""

    def __init__(self, fencing: bool = True, dedupe: bool = True) -> None:
        self.content = Content()
        self.snapshot = Content()
        self.up = True
        self.fencing = fencing
        self.dedupe = dedupe
        self.finishes: dict[str, list[Outcome]] = {}
        self.ever: dict[str, list[Token]] = {}
        self.rolled_back: set[str] = set()
        """Requests whose recorded end a failover has lost at least once."""
        self.stale_writes = 0

    def keep_snapshot(self) -> None:
        """What a replica has; a failover falls back to it."""
        self.snapshot = self.content.copy()

    def fail_over(self) -> None:
        """The replica takes over: writes since the last snapshot are gone."""
        self.content = self.snapshot.copy()
        for request in list(self.finishes):
            entry = self.content.entries.get(request)
            if entry is None or entry.outcome is None:
                del self.finishes[request]
                self.rolled_back.add(request)

    # --- lease ---

    def acquire(self, holder: str, ttl: float, floor: int, now: float) -> tuple[int, str, int]:
        """(epoch or 0, current holder, current epoch)."""
        content = self.content
        if content.lease_until > now and content.holder:
            return 0, content.holder, content.counter
        return self._grant(holder, ttl, floor, now)

    def _grant(self, holder: str, ttl: float, floor: int, now: float) -> tuple[int, str, int]:
        content = self.content
        content.counter = max(content.counter, floor) + 1
        content.holder, content.lease_until = holder, now + ttl
        return content.counter, holder, content.counter

    def renew(self, holder: str, epoch: int, ttl: float, now: float) -> bool:
        """Prolong; also after the lease ran out, if nobody took it."""
        content = self.content
        if content.counter != epoch or content.holder != holder:
            return False
        content.lease_until = now + ttl
        return True

    def takeover(self, holder: str, expected: int, ttl: float, floor: int, now: float) -> tuple[int, str, int]:
        """Compare-and-set on the epoch."""
        if self.content.counter != expected:
            return 0, self.content.holder, self.content.counter
        return self._grant(holder, ttl, floor, now)

    # --- requests ---

    def _stale(self, epoch: int) -> bool:
        if epoch < self.content.counter:
            if self.fencing:
                return True
            self.stale_writes += 1
        return False

    def accept(self, spec: RequestSpec, epoch: int) -> str:
        """accepted, exists or stale."""
        if self._stale(epoch):
            return "stale"
        if spec.id in self.content.entries and self.dedupe:
            return "exists"
        self.content.entries[spec.id] = Entry(spec)
        return "accepted"

    def tokens(self, request: str, first: int, tokens: tuple[Token, ...], epoch: int) -> str | int:
        """The length recorded then, or stale, missing."""
        if self._stale(epoch):
            return "stale"
        entry = self.content.entries.get(request)
        if entry is None or first > len(entry.tokens):
            return "missing"
        entry.tokens += tokens[len(entry.tokens) - first :]
        self._remember(request, entry)
        return len(entry.tokens)

    def _remember(self, request: str, entry: Entry) -> None:
        if len(entry.tokens) > len(self.ever.get(request, ())):
            self.ever[request] = list(entry.tokens)

    def finish(self, outcome: Outcome, epoch: int) -> str:
        """finished, stale or missing."""
        if self._stale(epoch):
            return "stale"
        entry = self.content.entries.get(outcome.id)
        if entry is None:
            return "missing"
        if entry.outcome is None or not self.dedupe:
            self.content.entries[outcome.id] = replace(entry, outcome=outcome)
            self.finishes.setdefault(outcome.id, []).append(outcome)
        return "finished"

    def reassert(
        self, spec: RequestSpec, tokens: tuple[Token, ...], outcome: Outcome | None, epoch: int
    ) -> tuple[str, int]:
        """Put back what is missing."""
        if self._stale(epoch):
            return "stale", 0
        entry = self.content.entries.setdefault(spec.id, Entry(spec))
        entry.tokens += tokens[len(entry.tokens) :]
        self._remember(spec.id, entry)
        ended = outcome if entry.outcome is None else None
        if ended is not None:
            self.content.entries[spec.id] = replace(entry, outcome=ended)
            self.finishes.setdefault(spec.id, []).append(ended)
        return "finished" if ended or entry.outcome else "open", len(entry.tokens)

    def load(self, request: str) -> StoredRequest | None:
        """One record."""
        entry = self.content.entries.get(request)
        return None if entry is None else StoredRequest(entry.spec, tuple(entry.tokens), entry.outcome)

    def load_open(self) -> tuple[StoredRequest, ...]:
        """All that have not ended."""
        return tuple(
            StoredRequest(entry.spec, tuple(entry.tokens))
            for entry in self.content.entries.values()
            if entry.outcome is None
        )
