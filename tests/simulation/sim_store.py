"""The store as the simulator has it: the model of the scripts, with restarts, lost writes, and a memory of its own."""

from __future__ import annotations

from qaicl.store import ops
from qaicl.wire.messages import NodeRecord
from tests.simulation.store_model import Model


class SimStore:
    """One Redis. What it remembers besides, no failover takes: the checks of the promises read it.

    Args:
        fencing: off, it takes writes of any epoch.
        dedupe: off, it accepts and ends a request as often as it is told to.
    """

    def __init__(self, fencing: bool = True, dedupe: bool = True) -> None:
        self.content = Model(fencing, dedupe)
        self.nodes: dict[str, tuple[NodeRecord, float]] = {}
        self._replica = (self.content.copy(), dict(self.nodes))
        self.up = True
        self.ends: dict[str, int] = {}
        """How often each request's end was recorded, as far as no failover has lost it."""
        self.most: dict[str, int] = {}
        """How many tokens of each request were ever recorded."""
        self.rolled_back: set[str] = set()
        """Requests whose recorded end a failover has lost at least once."""

    def apply(self, holder: str, op: ops.Op, now: float) -> ops.Reply:
        """What the store answers at ``now``."""
        self.content.now = now
        reply = self.content.apply(holder, op)
        if isinstance(op, ops.RecordTokens | ops.Reaccept) and isinstance(reply, ops.Recorded | ops.Finished):
            self.most[op.id] = max(self.most.get(op.id, 0), len(self.content.requests[op.id].tokens))
        if isinstance(op, ops.Finish | ops.Reaccept) and isinstance(reply, ops.Finished):
            self.ends[op.id] = self.ends.get(op.id, 0) + 1
        return reply

    def keep_snapshot(self) -> None:
        """What a replica has; a failover falls back to it."""
        self._replica = self.content.copy(), dict(self.nodes)

    def fail_over(self) -> None:
        """The replica takes over: writes since the last snapshot are gone."""
        stale_writes = self.content.stale_writes
        self.content, self.nodes = self._replica[0].copy(), dict(self._replica[1])
        self.content.stale_writes = stale_writes
        for id in list(self.ends):
            request = self.content.requests.get(id)
            if request is None or request.state == "open":
                del self.ends[id]
                self.rolled_back.add(id)
