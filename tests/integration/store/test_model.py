"""Thousands of drawn operations of two leaders, each answered as the model of the simulated clusters does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from qaicl.store import ops
from qaicl.store.session import Session
from tests.simulation.store_model import Model


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
