"""Who leads: one at a time, with a growing epoch."""

from __future__ import annotations

from qaicl.cluster import lease as leases
from qaicl.cluster.lease import Ask, Lease


def standby() -> Lease:
    lease = Lease("orch-2", 3.0)
    assert leases.tick(lease, 0.0) is not None
    change = leases.refused(lease, "orch-1", 4)
    assert change is not None and not change.leading and change.leader == "orch-1"
    return lease


def test_a_standby_asks_again_and_again_and_is_told_once() -> None:
    lease = standby()
    assert leases.tick(lease, 0.1) is None, "not so soon"
    ask = leases.tick(lease, 1.0)
    assert ask is not None and ask.kind is Ask.acquire and ask.floor == 4
    assert leases.tick(lease, 2.0) is None, "one question at a time"
    assert leases.refused(lease, "orch-1", 4) is None, "nothing has changed"


def test_a_leader_renews_and_steps_down_when_refused() -> None:
    lease = Lease("orch-1", 3.0)
    leases.tick(lease, 0.0)
    change = leases.granted(lease, 5)
    assert change is not None and change.leading and change.epoch == 5
    ask = leases.tick(lease, 1.0)
    assert ask is not None and (ask.kind, ask.epoch) == (Ask.renew, 5)
    assert leases.granted(lease, 5) is None
    change = leases.refused(lease, "orch-2", 6)
    assert change is not None and not change.leading
    assert lease.epoch == 0


def test_a_gone_leader_is_replaced_once_an_epoch() -> None:
    lease = standby()
    ask = leases.leader_gone(lease, "orch-1", 1.0)
    assert ask is not None and (ask.kind, ask.epoch) == (Ask.takeover, 4)
    leases.refused(lease, "orch-1", 4)
    assert leases.leader_gone(lease, "orch-1", 2.0) is None
    assert leases.leader_gone(lease, "somebody", 2.0) is None


def test_after_a_newer_epoch_was_seen_only_a_higher_one_will_do() -> None:
    lease = Lease("orch-1", 3.0)
    leases.tick(lease, 0.0)
    leases.granted(lease, 7)
    leases.superseded(lease, 7, "orch-2", 1.0)
    ask = leases.tick(lease, 1.0)
    assert ask is not None and (ask.kind, ask.floor) == (Ask.acquire, 7)


def test_a_store_that_does_not_answer_is_asked_again() -> None:
    lease = Lease("orch-1", 3.0)
    leases.tick(lease, 0.0)
    leases.unanswered(lease)
    assert leases.tick(lease, 1.0) is not None
