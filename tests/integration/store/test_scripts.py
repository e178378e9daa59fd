"""What each script promises, against a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import redis
from redis.crc import key_slot

from qaicl.store import ops
from qaicl.store.embedded import EmbeddedValkey
from qaicl.store.scripts import Scripts, sources
from qaicl.store.session import Session

OpenAs = Callable[[str], Session]
TTL = 60_000


@pytest.fixture
def raw(valkey: EmbeddedValkey) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(valkey.socket), protocol=2)


def soon(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- lease ---------------------------------------------------------------------------------------


def test_only_one_holds_the_lease_and_each_new_one_has_a_higher_epoch(store: Session) -> None:
    assert store.call(ops.Acquire("o-1", TTL)) == ops.Leased(1, "o-1")
    assert store.call(ops.Acquire("o-2", TTL)) == ops.Held(1, "o-1")
    assert store.call(ops.Release("o-1", 1)) == ops.Released()
    assert store.call(ops.Acquire("o-2", TTL)) == ops.Leased(2, "o-2")


def test_an_epoch_is_above_any_that_is_known(store: Session) -> None:
    assert store.call(ops.Acquire("o-1", TTL, floor=41)) == ops.Leased(42, "o-1")
    store.call(ops.Release("o-1", 42))
    assert store.call(ops.Acquire("o-1", TTL, floor=7)) == ops.Leased(43, "o-1")


def test_a_lease_runs_out_unless_it_is_renewed(store: Session) -> None:
    store.call(ops.Acquire("o-1", 300))
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        assert store.call(ops.Renew("o-1", 1, 300)) == ops.Leased(1, "o-1")
        assert store.call(ops.Acquire("o-2", TTL)) == ops.Held(1, "o-1")
        time.sleep(0.02)
    soon(lambda: store.call(ops.Acquire("o-2", TTL)) == ops.Leased(2, "o-2"))


def test_a_lease_that_ran_out_is_renewed_where_nobody_took_over(store: Session) -> None:
    store.call(ops.Acquire("o-1", 1))
    soon(lambda: store.call(ops.Renew("o-9", 1, TTL)) == ops.Held(1, ""))
    assert store.call(ops.Renew("o-1", 1, TTL)) == ops.Leased(1, "o-1")
    assert store.call(ops.Acquire("o-2", TTL)) == ops.Held(1, "o-1")


def test_a_lease_is_not_renewed_once_another_led(store: Session) -> None:
    store.call(ops.Acquire("o-1", 1))
    soon(lambda: isinstance(store.call(ops.Acquire("o-2", TTL)), ops.Leased))
    assert store.call(ops.Renew("o-1", 1, TTL)) == ops.Held(2, "o-2")
    store.call(ops.Release("o-2", 2))
    assert store.call(ops.Renew("o-1", 1, TTL)) == ops.Held(2, "")


def test_taking_over_from_a_dead_leader_is_a_race_that_one_wins(store: Session) -> None:
    store.call(ops.Acquire("o-1", TTL))
    assert store.call(ops.TakeOver("o-2", 1, TTL)) == ops.Leased(2, "o-2")
    assert store.call(ops.TakeOver("o-3", 1, TTL)) == ops.Held(2, "o-2")
    assert store.call(ops.Renew("o-1", 1, TTL)) == ops.Held(2, "o-2")
    assert store.call(ops.Release("o-1", 1)) == ops.Held(2, "o-2")


def test_taking_over_a_lease_that_just_ran_out(store: Session) -> None:
    store.call(ops.Acquire("o-1", 1))
    time.sleep(0.01)
    assert store.call(ops.TakeOver("o-2", 1, TTL, floor=9)) == ops.Leased(10, "o-2")


def test_a_race_of_many_has_one_winner_an_epoch(open_as: OpenAs) -> None:
    epochs: list[int] = []
    sessions = [open_as(f"o-{number}") for number in range(6)]
    barrier = threading.Barrier(len(sessions))

    def race(session: Session, name: str) -> None:
        for _ in range(50):
            barrier.wait()
            reply = session.call(ops.Acquire(name, TTL))
            if isinstance(reply, ops.Leased):
                epochs.append(reply.epoch)
            barrier.wait()
            if isinstance(reply, ops.Leased):
                assert session.call(ops.Release(name, reply.epoch)) == ops.Released()

    threads = [threading.Thread(target=race, args=(session, f"o-{i}")) for i, session in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(epochs) >= 50
    assert epochs == sorted(set(epochs))


def test_a_lost_epoch_is_put_back_by_its_leader(store: Session, raw: redis.Redis, namespace: str) -> None:
    """A failover that loses the last writes must not let an old leader in again."""
    store.call(ops.Acquire("o-1", TTL, floor=4))
    raw.delete(f"{{{namespace}}}:lease", f"{{{namespace}}}:fence")
    assert store.call(ops.Renew("o-1", 5, TTL)) == ops.Leased(5, "o-1")
    assert store.call(ops.Accept("r", b"", 4)) == ops.Stale(5, "o-1")


def test_a_leader_ousts_an_older_one_that_a_failover_brought_back(store: Session) -> None:
    store.call(ops.Acquire("o-1", TTL))
    assert store.call(ops.Renew("o-2", 3, TTL)) == ops.Leased(3, "o-2")
    assert store.call(ops.Renew("o-1", 1, TTL)) == ops.Held(3, "o-2")


def test_a_leader_is_renewed_over_an_older_lease_that_a_failover_brought_back(store: Session) -> None:
    store.call(ops.Acquire("o-9", TTL))
    # The first word of epoch 2 that the new master hears is a write, not a renewal.
    assert store.call(ops.Accept("r", b"", 2)) == ops.Accepted()
    assert store.call(ops.Renew("o-9", 1, TTL)) == ops.Held(2, "o-1")
    assert store.call(ops.Renew("o-1", 2, TTL)) == ops.Leased(2, "o-1")
    assert store.call(ops.Renew("o-9", 1, TTL)) == ops.Held(2, "o-1")


def test_taking_over_where_a_failover_brought_an_older_lease_back(store: Session) -> None:
    store.call(ops.Acquire("o-9", TTL))
    store.call(ops.Accept("r", b"", 2))
    assert store.call(ops.TakeOver("o-3", 2, TTL)) == ops.Leased(3, "o-3")


def test_two_leaders_with_one_epoch_are_told_apart(open_as: OpenAs) -> None:
    first, second = open_as("o-1"), open_as("o-2")
    first.call(ops.Acquire("o-1", TTL))
    assert first.call(ops.Accept("r", b"", 1)) == ops.Accepted()
    assert second.call(ops.Renew("o-2", 1, TTL)) == ops.Held(1, "o-1")
    assert second.call(ops.RecordTokens("r", 1, 0, (b"x",))) == ops.Stale(1, "o-1")
    assert first.call(ops.RecordTokens("r", 1, 0, (b"x",))) == ops.Recorded(1)


# --- requests ------------------------------------------------------------------------------------


def test_a_request_from_first_to_last(store: Session) -> None:
    before = time.time()
    assert store.call(ops.Accept("r-1", b"prompt", 1)) == ops.Accepted()
    assert store.call(ops.RecordTokens("r-1", 1, 0, (b"a", b"b"))) == ops.Recorded(2)
    assert store.call(ops.RecordTokens("r-1", 1, 2, (b"\x00\xff",))) == ops.Recorded(3)
    assert store.call(ops.Finish("r-1", 1, "done", b"result", tokens=3)) == ops.Finished()
    reply = store.call(ops.Load("r-1"))
    assert isinstance(reply, ops.Loaded)
    assert reply.request is not None
    assert reply.request == ops.StoredRequest(
        "r-1", "done", b"prompt", reply.request.accepted, (b"a", b"b", b"\x00\xff"), b"result"
    )
    assert before - 1 < reply.request.accepted < time.time() + 1


def test_a_request_is_accepted_once(store: Session) -> None:
    assert store.call(ops.Accept("r", b"first", 1)) == ops.Accepted()
    assert store.call(ops.Accept("r", b"second", 1)) == ops.Exists("open")
    store.call(ops.Finish("r", 1, "failed", b"why"))
    assert store.call(ops.Accept("r", b"third", 1)) == ops.Exists("failed")
    reply = store.call(ops.Load("r"))
    assert isinstance(reply, ops.Loaded)
    assert reply.request is not None
    assert reply.request.payload == b"first"


def test_tokens_that_come_again_are_passed_over(store: Session) -> None:
    store.call(ops.Accept("r", b"", 1))
    store.call(ops.RecordTokens("r", 1, 0, (b"a", b"b", b"c")))
    assert store.call(ops.RecordTokens("r", 1, 0, (b"A", b"B"))) == ops.Recorded(3)
    assert store.call(ops.RecordTokens("r", 1, 2, (b"C", b"d"))) == ops.Recorded(4)
    assert store.call(ops.RecordTokens("r", 1, 4, ())) == ops.Recorded(4)
    reply = store.call(ops.Load("r"))
    assert isinstance(reply, ops.Loaded)
    assert reply.request is not None
    assert reply.request.tokens == (b"a", b"b", b"c", b"d")


def test_a_gap_is_refused(store: Session) -> None:
    store.call(ops.Accept("r", b"", 1))
    assert store.call(ops.RecordTokens("r", 1, 1, (b"b",))) == ops.Gap(0)
    store.call(ops.RecordTokens("r", 1, 0, (b"a",)))
    assert store.call(ops.RecordTokens("r", 1, 3, (b"d",))) == ops.Gap(1)
    assert store.call(ops.Verify(("r",))) == ops.Verified({"r": ("open", 1)})


def test_an_outcome_is_recorded_once_and_with_all_tokens(store: Session) -> None:
    store.call(ops.Accept("r", b"", 1))
    store.call(ops.RecordTokens("r", 1, 0, (b"a",)))
    assert store.call(ops.Finish("r", 1, "done", b"early", tokens=2)) == ops.Gap(1)
    store.call(ops.RecordTokens("r", 1, 1, (b"b",)))
    assert store.call(ops.Finish("r", 1, "done", b"right", tokens=2)) == ops.Finished()
    assert store.call(ops.Finish("r", 1, "failed", b"late")) == ops.Ended("done")
    assert store.call(ops.RecordTokens("r", 1, 2, (b"c",))) == ops.Ended("done")
    assert store.call(ops.Reaccept("r", 1, b"", (b"x",) * 9)) == ops.Ended("done")
    reply = store.call(ops.Load("r"))
    assert isinstance(reply, ops.Loaded)
    assert reply.request is not None
    assert (reply.request.result, reply.request.tokens) == (b"right", (b"a", b"b"))


def test_what_is_not_there_is_said_to_be_missing(store: Session) -> None:
    assert store.call(ops.RecordTokens("r", 1, 0, (b"a",))) == ops.Missing()
    assert store.call(ops.Finish("r", 1, "done", b"")) == ops.Missing()
    assert store.call(ops.Load("r")) == ops.Loaded(None)
    assert store.call(ops.Verify(("r",))) == ops.Verified({"r": (None, 0)})
    assert store.call(ops.Verify(())) == ops.Verified({})


def test_a_stale_epoch_changes_nothing(open_as: OpenAs, raw: redis.Redis, namespace: str) -> None:
    old, new = open_as("o-1"), open_as("o-2")
    old.call(ops.Acquire("o-1", TTL))
    old.call(ops.Accept("r", b"prompt", 1))
    new.call(ops.TakeOver("o-2", 1, TTL))
    keys = sorted(raw.scan_iter(f"{{{namespace}}}:*"))
    before = [raw.dump(key) for key in keys]
    stale = ops.Stale(2, "o-2")
    assert old.call(ops.Accept("r", b"", 1)) == stale
    assert old.call(ops.Accept("r-2", b"", 1)) == stale
    assert old.call(ops.RecordTokens("r", 1, 0, (b"a",))) == stale
    assert old.call(ops.Finish("r", 1, "done", b"")) == stale
    assert old.call(ops.Reaccept("r", 1, b"", (b"a",))) == stale
    assert old.call(ops.Reaccept("r-2", 1, b"", (), "done", b"")) == stale
    assert sorted(raw.scan_iter(f"{{{namespace}}}:*")) == keys
    assert [raw.dump(key) for key in keys] == before


def test_what_is_open_is_found_in_its_order(store: Session) -> None:
    for number in range(25):
        store.call(ops.Accept(f"r-{number:02}", b"%d" % number, 1))
        store.call(ops.RecordTokens(f"r-{number:02}", 1, 0, (b"t",) * (number % 3)))
    for number in range(0, 25, 5):
        store.call(ops.Finish(f"r-{number:02}", 1, "done", b""))
    found: list[ops.StoredRequest] = []
    after = ""
    while True:
        page = store.call(ops.LoadOpen(after, 7))
        assert isinstance(page, ops.Open)
        assert len(page.requests) <= 7
        found += page.requests
        after = page.after
        if not after:
            break
    assert [request.id for request in found] == [f"r-{number:02}" for number in range(25) if number % 5]
    assert [len(request.tokens) for request in found] == [number % 3 for number in range(25) if number % 5]


def test_a_lost_request_is_put_back_whole(store: Session, raw: redis.Redis, namespace: str) -> None:
    tokens = (b"a", b"b", b"c")
    assert store.call(ops.Reaccept("r", 1, b"prompt", tokens)) == ops.Recorded(3)
    assert store.call(ops.Reaccept("r", 1, b"prompt", tokens)) == ops.Recorded(3)
    # Its last token is lost.
    raw.delete(f"{{{namespace}}}:tok:r")
    for position, token in enumerate(tokens[:2]):
        raw.xadd(f"{{{namespace}}}:tok:r", {"t": token}, id=f"{position + 1}-0")
    assert store.call(ops.Reaccept("r", 1, b"prompt", (*tokens, b"d"))) == ops.Recorded(4)
    reply = store.call(ops.Load("r"))
    assert isinstance(reply, ops.Loaded)
    assert reply.request is not None
    assert (reply.request.state, reply.request.payload, reply.request.tokens) == ("open", b"prompt", (*tokens, b"d"))
    page = store.call(ops.LoadOpen())
    assert isinstance(page, ops.Open)
    assert [request.id for request in page.requests] == ["r"]


def test_a_lost_ended_request_is_put_back_whole(store: Session) -> None:
    assert store.call(ops.Reaccept("r", 1, b"p", (b"a",), "failed", b"why")) == ops.Finished()
    assert store.call(ops.Verify(("r",))) == ops.Verified({"r": ("failed", 1)})
    page = store.call(ops.LoadOpen())
    assert isinstance(page, ops.Open)
    assert page.requests == ()


def test_an_ended_request_is_kept_for_its_time(
    store: Session, open_as: OpenAs, raw: redis.Redis, namespace: str
) -> None:
    store.call(ops.Accept("r", b"", 1))
    store.call(ops.RecordTokens("r", 1, 0, (b"a",)))
    names = [f"{{{namespace}}}:req:r", f"{{{namespace}}}:tok:r"]
    assert [raw.ttl(name) for name in names] == [-1, -1]
    store.call(ops.Finish("r", 1, "done", b""))
    assert all(86_000 < raw.ttl(name) <= 86_400 for name in names)
    assert raw.xlen(f"{{{namespace}}}:requests") == 0
    assert raw.xrange(f"{{{namespace}}}:results")[0][1] == {b"id": b"r", b"state": b"done"}


def test_all_keys_of_a_namespace_share_a_slot(store: Session, raw: redis.Redis, namespace: str) -> None:
    store.call(ops.Acquire("o-1", TTL))
    store.call(ops.Accept("{other}", b"", 1))
    store.call(ops.RecordTokens("{other}", 1, 0, (b"a",)))
    store.call(ops.Finish("{other}", 1, "done", b""))
    store.call(ops.Announce("node", "{n}", "i", b"", TTL))
    keys = [key.decode() for key in raw.scan_iter(f"{{{namespace}}}:*")]
    assert len(keys) >= 7
    assert len({key_slot(key.encode()) for key in keys}) == 1


# --- registry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("registry", ["node", "orchestrator"])
def test_records_come_and_go(store: Session, registry: ops.Registry) -> None:
    assert store.call(ops.List(registry)) == ops.Listed({})
    store.call(ops.Announce(registry, "b", "1", b"old", TTL))
    store.call(ops.Announce(registry, "b", "1", b"new", TTL))
    store.call(ops.Announce(registry, "a", "1", b"\x00", TTL))
    assert store.call(ops.List(registry)) == ops.Listed({"a": b"\x00", "b": b"new"})
    store.call(ops.Withdraw(registry, "b", "1"))
    assert store.call(ops.List(registry)) == ops.Listed({"a": b"\x00"})


def test_nodes_and_orchestrators_are_kept_apart(store: Session) -> None:
    store.call(ops.Announce("node", "x", "1", b"n", TTL))
    store.call(ops.Announce("orchestrator", "x", "1", b"o", TTL))
    assert store.call(ops.List("node")) == ops.Listed({"x": b"n"})
    assert store.call(ops.List("orchestrator")) == ops.Listed({"x": b"o"})


def test_a_record_that_is_not_renewed_leaves_the_index(store: Session, raw: redis.Redis, namespace: str) -> None:
    store.call(ops.Announce("node", "gone", "1", b"", 20))
    store.call(ops.Announce("node", "here", "1", b"", TTL))
    soon(lambda: store.call(ops.List("node")) == ops.Listed({"here": b""}))
    assert raw.smembers(f"{{{namespace}}}:nodes") == {b"here"}


def test_an_old_self_does_not_withdraw_its_successor(store: Session) -> None:
    store.call(ops.Announce("node", "n", "old", b"1", TTL))
    store.call(ops.Announce("node", "n", "new", b"2", TTL))
    assert store.call(ops.Withdraw("node", "n", "old")) == ops.Withdrawn()
    assert store.call(ops.List("node")) == ops.Listed({"n": b"2"})


def test_coming_and_going_is_published(store: Session, raw: redis.Redis, namespace: str) -> None:
    with raw.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(Scripts(namespace).channel("node"))
        subscription.get_message(timeout=5)
        store.call(ops.Announce("node", "n", "1", b"", TTL))
        store.call(ops.Announce("node", "n", "1", b"renewed", TTL))
        store.call(ops.Announce("node", "n", "2", b"restarted", TTL))
        store.call(ops.Withdraw("node", "n", "2"))
        heard = []
        while len(heard) < 3:
            message = subscription.get_message(timeout=5)
            assert message is not None
            heard.append(message["data"])
        assert heard == [b"n"] * 3
        assert subscription.get_message(timeout=0.05) is None


def test_every_script_is_known_to_the_server(store: Session, raw: redis.Redis) -> None:
    assert len(sources()) == 14
    assert all(raw.script_exists(*[raw.script_load(text) for text in sources().values()]))
