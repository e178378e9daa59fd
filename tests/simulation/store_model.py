"""What the store promises, in plain Python: checked against the real scripts, run on by the simulated clusters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qaicl.store import ops


@dataclass
class Request:
    """One request's record."""

    payload: bytes
    tokens: list[bytes] = field(default_factory=list)
    state: ops.State = "open"
    result: bytes = b""

    def stored(self, request: str) -> ops.StoredRequest:
        """As ``Load`` gives it."""
        return ops.StoredRequest(request, self.state, self.payload, 0.0, tuple(self.tokens), self.result)


@dataclass(frozen=True)
class Lease:
    """Who leads until when, by ``Model.now``."""

    epoch: int
    holder: str
    until: float


@dataclass
class Model:
    """The answers of the store's scripts; its clock is set from outside.

    Args:
        fencing: off, it takes writes of any epoch.
        dedupe: off, it accepts and ends a request as often as it is told to.
    """

    fencing: bool = True
    dedupe: bool = True
    now: float = 0.0
    epoch: int = 0
    fence_holder: str = ""
    granted: Lease | None = None
    requests: dict[str, Request] = field(default_factory=dict)
    stale_writes: int = 0

    def copy(self) -> Model:
        """As deep as anything changes: records of ended requests are shared."""
        requests = {
            id: request if request.state != "open" else replace(request, tokens=list(request.tokens))
            for id, request in self.requests.items()
        }
        return replace(self, requests=requests)

    @property
    def lease(self) -> Lease | None:
        """The lease that is live."""
        return self.granted if self.granted is not None and self.granted.until > self.now else None

    def apply(self, holder: str, op: ops.Op) -> ops.Reply:
        """What the store answers.

        Args:
            holder: who speaks.
        """
        match op:
            case ops.Acquire(_, ttl, floor):
                return self.held() if self.lease else self._lead(holder, max(self.epoch, floor) + 1, ttl)
            case ops.Renew(_, epoch, ttl):
                mine = epoch == self.epoch and self.fence_holder == holder
                live = self.lease
                older = live is None or live.epoch < epoch
                renewed = live is not None and (live.epoch, live.holder) == (epoch, holder) and epoch >= self.epoch
                if renewed or epoch > self.epoch or (mine and older):
                    return self._lead(holder, epoch, ttl)
                return self.held()
            case ops.TakeOver(_, expected, ttl, floor):
                epoch = self.lease.epoch if self.lease else 0
                if epoch == expected or (epoch < expected and self.epoch == expected):
                    return self._lead(holder, max(self.epoch, floor) + 1, ttl)
                return self.held()
            case ops.Release(_, epoch):
                if self.lease and (self.lease.epoch, self.lease.holder) == (epoch, holder):
                    self.granted = None
                    return ops.Released()
                return self.held()
            case ops.Load(id):
                request = self.requests.get(id)
                return ops.Loaded(request.stored(id) if request else None)
            case ops.LoadOpen():
                return ops.Open(tuple(r.stored(id) for id, r in self.requests.items() if r.state == "open"), "")
            case ops.Verify(ids):
                found = ((id, self.requests.get(id)) for id in ids)
                return ops.Verified({id: (r.state, len(r.tokens)) if r else (None, 0) for id, r in found})
            case ops.Accept() | ops.RecordTokens() | ops.Finish() | ops.Reaccept():
                return self._stale(holder, op.epoch) or self._change(op)
        raise AssertionError(op)

    def held(self) -> ops.Held:
        """The answer to who may not lead."""
        if self.lease is None:
            return ops.Held(self.epoch, "")
        return ops.Held(self.epoch, self.fence_holder)

    def _lead(self, holder: str, epoch: int, ttl_ms: int) -> ops.Reply:
        self.granted = Lease(epoch, holder, self.now + ttl_ms / 1000)
        if epoch > self.epoch:
            self.epoch, self.fence_holder = epoch, holder
        return ops.Leased(epoch, holder)

    def _stale(self, holder: str, epoch: int) -> ops.Reply | None:
        if epoch < self.epoch or (epoch == self.epoch and self.fence_holder not in ("", holder)):
            if self.fencing:
                return ops.Stale(self.epoch, self.fence_holder)
            self.stale_writes += 1
        elif epoch > self.epoch:
            self.epoch, self.fence_holder = epoch, holder
        return None

    def _change(self, op: ops.Accept | ops.RecordTokens | ops.Finish | ops.Reaccept) -> ops.Reply:
        request = self.requests.get(op.id)
        match op:
            case ops.Accept():
                if request and self.dedupe:
                    return ops.Exists(request.state)
                self.requests[op.id] = Request(op.payload)
                return ops.Accepted()
            case ops.Reaccept():
                if request and request.state != "open":
                    return ops.Ended(request.state)
                request = self.requests.setdefault(op.id, Request(op.payload))
                request.tokens += op.tokens[len(request.tokens) :]
                if op.state == "open":
                    return ops.Recorded(len(request.tokens))
                self.requests[op.id] = replace(request, state=op.state, result=op.result)
                return ops.Finished()
            case _ if request is None:
                return ops.Missing()
            case _ if request.state != "open" and (self.dedupe or isinstance(op, ops.RecordTokens)):
                return ops.Ended(request.state)
            case ops.RecordTokens(_, _, first, tokens):
                if first > len(request.tokens):
                    return ops.Gap(len(request.tokens))
                request.tokens += tokens[len(request.tokens) - first :]
                return ops.Recorded(len(request.tokens))
            case ops.Finish(_, _, state, result, count):
                if count > len(request.tokens):
                    return ops.Gap(len(request.tokens))
                self.requests[op.id] = replace(request, state=state, result=result)
                return ops.Finished()
        raise AssertionError(op)
