"""Where requests go: filters, the five policies, fitted layers, and the reasons."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaicl.cluster.placement import Wish, partition, place
from qaicl.cluster.state import NodeStatus, NodeView, State
from qaicl.settings import LimitSettings, LivenessSettings, Policy
from qaicl.wire.messages import Load, NodeRecord


def node(name: str, layer_ms: float = 1.0, max_layers: int = 12, layers: int = 12, **view: object) -> NodeView:
    record = NodeRecord(
        name, f"{name}.0", f"tcp://{name}", "key", 1, name, "m", "digest", "float32", layers, max_layers,
        layer_ms / 1000, 0.001,
    )  # fmt: skip
    return NodeView(record, NodeStatus.alive, 0.0, 0.0, **view)  # type: ignore[arg-type]


def state(*nodes: NodeView, policy: Policy = "resource-aware") -> State:
    made = State("orch-1", LimitSettings(), LivenessSettings(), policy)
    made.nodes = {entry.record.name: entry for entry in nodes}
    return made


def wish(mode: str = "auto", stages: int = 0, key: str = "k", **more: object) -> Wish:
    return Wish(mode, stages, key, **more)  # type: ignore[arg-type]


def chosen(made: State, count: int, keys: bool = False) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(count):
        plan = place(made, wish(key=str(number) if keys else "k"))
        assert plan is not None
        found[plan.pipeline[0].node] += 1
    return found


def test_round_robin_takes_turns() -> None:
    assert chosen(state(node("a"), node("b"), node("c"), policy="round-robin"), 30) == {"a": 10, "b": 10, "c": 10}


def test_weighted_round_robin_follows_the_measured_speed() -> None:
    found = chosen(state(node("slow", 3.0), node("fast", 1.0), policy="weighted-round-robin"), 100)
    speeds = {"slow": 1 / 0.037, "fast": 1 / 0.013}
    assert found["fast"] / 100 == pytest.approx(speeds["fast"] / sum(speeds.values()), abs=0.03)


def test_least_connections_takes_the_idlest() -> None:
    made = state(node("a", running={"x", "y"}), node("b", running={"x"}), policy="least-connections")
    assert chosen(made, 5) == {"b": 5}


def test_resource_aware_prefers_the_shortest_wait() -> None:
    busy_but_fast = node("fast", 1.0, running={"x"})
    idle_but_slow = node("slow", 6.0)
    assert chosen(state(busy_but_fast, idle_but_slow), 5) == {"fast": 5}
    full = node("full", load=Load(memory_percent=99.0))
    assert chosen(state(full, node("free")), 5) == {"free": 5}


def test_consistent_hashing_keeps_a_conversation_and_moves_only_the_lost_share() -> None:
    made = state(*(node(name) for name in "abcde"), policy="consistent-hash")
    before = {key: place(made, wish(key=str(key))).pipeline[0].node for key in range(300)}  # type: ignore[union-attr]
    made.nodes["c"].status = NodeStatus.dead
    after = {key: place(made, wish(key=str(key))).pipeline[0].node for key in range(300)}  # type: ignore[union-attr]
    assert all(after[key] == name for key, name in before.items() if name != "c")
    assert min(Counter(before.values()).values()) > 30


@pytest.mark.parametrize("policy", ["round-robin", "weighted-round-robin", "least-connections", "resource-aware"])
def test_equal_nodes_share_equally(policy: Policy) -> None:
    """Distribution efficiency: the mean share over the largest, more than 85 %."""
    found = chosen(state(*(node(name) for name in "abc"), policy=policy), 100)
    assert (100 / 3) / max(found.values()) > 0.85


@pytest.mark.parametrize("status", [NodeStatus.dead, NodeStatus.draining, NodeStatus.joining])
def test_a_node_that_is_not_alive_attracts_nothing_however_idle(status: NodeStatus) -> None:
    gone = node("gone", 0.1)
    gone.status = status
    made = state(gone, node("busy", running=set("abcdefgh")))
    plan = place(made, wish())
    assert plan is not None and plan.pipeline[0].node == "busy"
    assert any(f"gone left out: {status}" in reason for reason in plan.reasons)


def test_a_full_node_is_left_out_and_nobody_left_is_no_plan() -> None:
    full = node("full", running={str(number) for number in range(16)})
    assert place(state(full), wish()) is None
    plan = place(state(full, node("other")), wish())
    assert plan is not None and "16 requests run there" in " ".join(plan.reasons)


def test_a_node_that_fails_again_and_again_is_passed_over_for_a_while() -> None:
    failing = node("failing", 0.1, failures=3, suspect_until=5.0)
    made = state(failing, node("sound"))
    made.last_tick = 4.0
    plan = place(made, wish())
    assert plan is not None and plan.pipeline[0].node == "sound"
    assert any("3 failures in a row" in reason for reason in plan.reasons)
    made.last_tick = 5.0
    assert place(made, wish()).pipeline[0].node == "failing"  # type: ignore[union-attr]
    made.last_tick = 4.0
    del made.nodes["sound"]
    assert place(made, wish()).pipeline[0].node == "failing", "better than nobody"  # type: ignore[union-attr]


def test_a_model_that_fits_nowhere_whole_is_split_over_the_fewest_nodes() -> None:
    plan = place(state(*(node(name, max_layers=7) for name in "abc")), wish())
    assert plan is not None and plan.mode == "split"
    assert len(plan.pipeline) == 2


def test_a_model_that_does_not_fit_at_all_is_no_plan() -> None:
    assert place(state(node("a", max_layers=3), node("b", max_layers=4)), wish("split")) is None


def test_nodes_that_cannot_reach_each_other_do_not_share_a_pipeline() -> None:
    cut = node("a", unreachable=frozenset({"b"}))
    plan = place(state(cut, node("b"), node("c")), wish("split", 2))
    assert plan is not None
    assert {stage.node for stage in plan.pipeline} != {"a", "b"}


def test_a_split_without_a_pair_falls_back_to_one_node_and_says_so() -> None:
    plan = place(state(node("a"), node("b")), wish("split", 2, bad_links=frozenset({frozenset("ab")})))
    assert plan is not None and plan.mode == "replica"
    assert any("fell back to one node" in reason for reason in plan.reasons)


def test_other_weights_or_precision_never_share_a_pipeline() -> None:
    import msgspec

    other = node("z")
    other.record = msgspec.structs.replace(other.record, precision="int8")
    plan = place(state(node("a"), node("b"), other), wish("split", 3))
    assert plan is not None and {stage.node for stage in plan.pipeline} == {"a", "b"}
    assert any("other weights or precision" in reason for reason in plan.reasons)


def test_a_split_that_is_slower_than_one_node_says_so() -> None:
    plan = place(state(node("fast", 1.0), node("slow", 9.0)), wish("split", 2))
    assert plan is not None and any("one node alone would be faster" in reason for reason in plan.reasons)


def test_a_question_changes_no_counter() -> None:
    made = state(node("a"), node("b"), policy="round-robin")
    first = place(made, wish(), commit=False)
    assert place(made, wish(), commit=False) == first


@given(
    st.lists(st.tuples(st.floats(0.1, 20.0), st.integers(1, 40)), min_size=1, max_size=5),
    st.integers(5, 40),
)
def test_a_partition_covers_every_layer_once_within_memory(nodes: list[tuple[float, int]], layers: int) -> None:
    made = [node(str(number), ms, most, layers) for number, (ms, most) in enumerate(nodes)]
    ranges = partition(made)
    if ranges is None:
        assert sum(most for _, most in nodes) < layers or layers < len(nodes)
        return
    assert [layer for first, last in ranges for layer in range(first, last + 1)] == list(range(layers))
    assert all(last - first + 1 <= entry.record.max_layers for (first, last), entry in zip(ranges, made, strict=True))


def test_a_partition_gives_a_fast_node_more_layers() -> None:
    ranges = partition([node("slow", 3.0, 30, 30), node("fast", 1.0, 30, 30)])
    assert ranges is not None
    assert ranges[0][1] + 1 in (7, 8)
