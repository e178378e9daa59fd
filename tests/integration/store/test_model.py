"""Thousands of drawn operations of two leaders, each answer compared with that of a few lines of plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from qaicl.store import ops
from qaicl.store.session import Session


@dataclass
class Request:
    payload: bytes
    tokens: list[bytes] = field(default_factory=list)
    state: ops.State = "open"
    result: bytes = b""


@dataclass
class Model:
    """What the store should be, with leases that never run out by themselves."""

    epoch: int = 0
    fence_holder: str = ""
    lease: tuple[int, str] | None = None
    requests: dict[str, Request] = field(default_factory=dict)

    def lead(self, holder: str, epoch: int) -> ops.Reply:
        self.lease = (epoch, holder)
        if epoch > self.epoch:
            self.epoch, self.fence_holder = epoch, holder
        return ops.Leased(epoch, holder)

    def held(self) -> ops.Reply:
        if self.lease is None:
            return ops.Held(self.epoch, "")
        return ops.Held(self.epoch, self.fence_holder)

    def stale(self, holder: str, epoch: int) -> ops.Reply | None:
        if epoch < self.epoch or (epoch == self.epoch and self.fence_holder not in ("", holder)):
            return ops.Stale(self.epoch, self.fence_holder)
        if epoch > self.epoch:
            self.epoch, self.fence_holder = epoch, holder
        return None

    def apply(self, holder: str, op: ops.Op) -> ops.Reply:
        match op:
            case ops.Acquire(_, _, floor):
                return self.held() if self.lease else self.lead(holder, max(self.epoch, floor) + 1)
            case ops.Renew(_, epoch, _):
                mine = epoch == self.epoch and self.fence_holder == holder
                older = self.lease is None or self.lease[0] < epoch
                renewed = self.lease == (epoch, holder) and epoch >= self.epoch
                return self.lead(holder, epoch) if renewed or epoch > self.epoch or (mine and older) else self.held()
            case ops.TakeOver(_, expected, _, floor):
                live = self.lease[0] if self.lease else 0
                if live == expected or (live < expected and self.epoch == expected):
                    return self.lead(holder, max(self.epoch, floor) + 1)
                return self.held()
            case ops.Release(_, epoch):
                if self.lease == (epoch, holder):
                    self.lease = None
                    return ops.Released()
                return self.held()
            case ops.Verify(ids):
                found = ((id, self.requests.get(id)) for id in ids)
                return ops.Verified({id: (r.state, len(r.tokens)) if r else (None, 0) for id, r in found})
            case ops.Accept() | ops.RecordTokens() | ops.Finish() | ops.Reaccept():
                return self.stale(holder, op.epoch) or self.change(op)
        raise AssertionError(op)

    def change(self, op: ops.Accept | ops.RecordTokens | ops.Finish | ops.Reaccept) -> ops.Reply:
        request = self.requests.get(op.id)
        match op:
            case ops.Accept():
                if request:
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
                request.state, request.result = op.state, op.result
                return ops.Finished()
            case _ if request is None:
                return ops.Missing()
            case _ if request.state != "open":
                return ops.Ended(request.state)
            case ops.RecordTokens(_, _, first, tokens):
                if first > len(request.tokens):
                    return ops.Gap(len(request.tokens))
                request.tokens += tokens[len(request.tokens) - first :]
                return ops.Recorded(len(request.tokens))
            case ops.Finish(_, _, state, result, count):
                if count > len(request.tokens):
                    return ops.Gap(len(request.tokens))
                request.state, request.result = state, result
                return ops.Finished()
        raise AssertionError(op)


def draw(choose: random.Random, model: Model, holder: str) -> ops.Op:
    id = f"r-{choose.randrange(12)}"
    epoch = max(0, model.epoch + choose.choice((-1, 0, 0, 0, 0, 0, 1)))
    have = len(model.requests[id].tokens) if id in model.requests else 0
    first = max(0, have + choose.choice((-2, -1, 0, 0, 0, 1)))
    tokens = tuple(choose.randbytes(choose.randrange(6)) for _ in range(choose.randrange(5)))
    ended: ops.End = choose.choice(("done", "failed"))
    ttl = 600_000
    return choose.choice(
        (
            lambda: ops.Accept(id, choose.randbytes(5), epoch),
            lambda: ops.Accept(f"r-{choose.randrange(400)}", b"p", epoch),
            lambda: ops.RecordTokens(id, epoch, first, tokens),
            lambda: ops.RecordTokens(id, epoch, first, tokens),
            lambda: ops.RecordTokens(id, epoch, first, tokens),
            lambda: ops.Finish(id, epoch, ended, choose.randbytes(4), choose.choice((-1, have, have, have + 1))),
            lambda: ops.Reaccept(id, epoch, b"again", (b"x",) * choose.randrange(6)),
            lambda: ops.Reaccept(f"r-{choose.randrange(400)}", epoch, b"again", (b"x", b"y"), ended, b"result"),
            lambda: ops.Verify((id, f"r-{choose.randrange(400)}")),
            lambda: ops.Acquire(holder, ttl, choose.randrange(2) * (model.epoch + 2)),
            lambda: ops.Renew(holder, epoch, ttl),
            lambda: ops.TakeOver(holder, epoch, ttl, choose.randrange(3)),
            lambda: ops.Release(holder, epoch),
        )
    )()


@pytest.mark.parametrize("seed", range(4))
def test_drawn_operations_are_answered_as_the_model_says(open_as: Callable[[str], Session], seed: int) -> None:
    choose = random.Random(seed)
    sessions = {name: open_as(name) for name in ("o-1", "o-2")}
    model = Model()
    kinds = set()
    for step in range(1500):
        holder = choose.choice(("o-1", "o-2"))
        op = draw(choose, model, holder)
        expected, answer = model.apply(holder, op), sessions[holder].call(op)
        assert answer == expected, f"seed {seed}, step {step}: {holder} {op}"
        kinds.add(type(answer).__name__)
    assert kinds >= {"Accepted", "Exists", "Recorded", "Gap", "Missing", "Ended", "Finished", "Stale", "Leased", "Held"}
    for id, request in model.requests.items():
        loaded = sessions["o-1"].call(ops.Load(id))
        assert isinstance(loaded, ops.Loaded)
        assert loaded.request is not None
        kept = loaded.request
        assert (kept.state, kept.payload, list(kept.tokens), kept.result) == (
            request.state,
            request.payload,
            request.tokens,
            request.result,
        )
    page = sessions["o-1"].call(ops.LoadOpen("", 1000))
    assert isinstance(page, ops.Open)
    assert {request.id for request in page.requests} == {id for id, r in model.requests.items() if r.state == "open"}
