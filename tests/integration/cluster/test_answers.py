"""A healthy cluster answers, explains itself and can be changed while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import redis

from tests.integration.cluster.conftest import Cluster, collect, make_cluster, spec, wait_for


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    yield from make_cluster()


@pytest.mark.parametrize(("mode", "stages", "expected"), [("replica", 0, 1), ("split", 2, 2), ("split", 3, 3)])
def test_the_text_does_not_depend_on_where_it_was_computed(
    cluster: Cluster, mode: str, stages: int, expected: int
) -> None:
    with cluster.client() as client:
        alone = collect(client.ask([spec()]))
        answer = collect(client.ask([spec(mode=mode, stages=stages)]))
    assert answer.text == alone.text != ""
    assert answer.outcome is not None
    assert len(answer.outcome.pipeline) == expected
    layers = [(stage.first, stage.last) for stage in answer.outcome.pipeline]
    assert layers[0][0] == 0 and layers[-1][1] == 11
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(layers))


def test_more_stages_than_nodes_says_what_was_done_instead(cluster: Cluster) -> None:
    with cluster.client() as client:
        answer = collect(client.ask([spec(mode="split", stages=9)]))
    assert answer.outcome is not None
    assert len(answer.outcome.pipeline) == 3
    assert any("9 stages wanted, 3 possible" in reason for reason in answer.outcome.reasons)


def test_the_json_of_an_answer_has_the_documented_fields(cluster: Cluster) -> None:
    answer = cluster.json("ask", "hello", "--mode", "split", "--stages", "2", "--max-tokens", "5", "--seed", "4")
    assert answer["finish_reason"] == "length"
    assert len(answer["token_ids"]) == 5
    assert answer["seed"] == 4
    assert answer["model"] == "echo"
    assert [set(stage) for stage in answer["pipeline"]] == [{"node", "layers"}] * 2
    assert set(answer["timings"]) == {"queued_ms", "first_token_ms", "total_ms", "tokens_per_second"}
    assert answer["failovers"] == []
    assert {"request_id", "trace_id", "mode", "text", "prompt_tokens", "version"} <= set(answer)


def test_the_prompt_may_come_from_standard_input(cluster: Cluster) -> None:
    done = cluster.cli("ask", "-", "--max-tokens", "3", stdin="hello")
    assert done.returncode == 0
    assert done.stdout == cluster.cli("ask", "hello", "--max-tokens", "3").stdout


def test_an_ended_request_can_be_resumed_by_its_id(cluster: Cluster) -> None:
    answer = cluster.json("ask", "hello", "--max-tokens", "5")
    again = cluster.json("ask", "--resume", answer["request_id"])
    assert again["token_ids"] == answer["token_ids"]
    assert again["timings"] == answer["timings"]


def test_the_same_request_id_is_answered_once(cluster: Cluster) -> None:
    request = spec()
    before = cluster.status()["counters"]["completed"]
    with cluster.client() as one, cluster.client() as other:
        first = collect(one.ask([request]))
        second = collect(other.ask([request]))
    assert first.tokens == second.tokens
    assert first.outcome == second.outcome
    assert cluster.status()["counters"]["completed"] == before + 1


def test_a_request_without_tokens_ends_at_once(cluster: Cluster) -> None:
    with cluster.client() as client:
        answer = collect(client.ask([spec(max_tokens=0)]))
    assert answer.tokens == []
    assert answer.outcome is not None and answer.outcome.finish_reason == "length"


def test_fifty_requests_at_once_are_all_answered(cluster: Cluster) -> None:
    requests = [spec(f"question {number}", mode=("split", "replica")[number % 2]) for number in range(50)]
    ends = {}
    tokens: dict[str, int] = {}
    with cluster.client() as client:
        for update in client.ask(requests):
            tokens[update.request] = tokens.get(update.request, 0) + len(update.tokens)
            if update.outcome is not None:
                ends[update.request] = update.outcome
    assert {request.id for request in requests} == set(ends)
    assert not any(outcome.error for outcome in ends.values())
    assert set(tokens.values()) == {24}


def test_status_has_the_documented_fields(cluster: Cluster) -> None:
    status = cluster.json("status")
    assert {"leader", "epoch", "orchestrators", "nodes", "queue", "store", "version"} <= set(status)
    for node in status["nodes"]:
        assert {"name", "pid", "state", "last_heartbeat_ms", "stages", "running", "address"} <= set(node)
        assert {"cpu_percent", "memory_percent"} <= set(node)
    assert {"waiting", "running"} <= set(status["queue"])
    assert sum(entry["leader"] for entry in status["orchestrators"]) == 1


def test_plan_explains_and_changes_nothing(cluster: Cluster) -> None:
    first = cluster.json("plan", "--mode", "split", "--stages", "2")["pipeline"]
    assert cluster.json("plan", "--mode", "split", "--stages", "2")["pipeline"] == first
    text = cluster.cli("plan", "--mode", "split", "--explain").stdout
    assert "layers 0-3" in text and "ms a layer" in text


def test_a_drained_node_gets_no_work_until_it_is_taken_back(cluster: Cluster) -> None:
    assert cluster.cli("node", "drain", "node-1", "--wait", "10").returncode == 0
    with cluster.client() as client:
        for _ in range(6):
            answer = collect(client.ask([spec(mode="split", stages=3)]))
            assert answer.outcome is not None
            assert "node-1" not in {stage.node for stage in answer.outcome.pipeline}
    assert cluster.cli("node", "drain", "node-1", "--undo").returncode == 0
    wait_for(cluster.all_alive)
    with cluster.client() as client:
        answer = collect(client.ask([spec(mode="split", stages=3)]))
    assert answer.outcome is not None and len(answer.outcome.pipeline) == 3


def test_a_node_can_be_added_and_removed(cluster: Cluster) -> None:
    added = cluster.json("node", "add")["node"]
    with cluster.client() as client:
        answer = collect(client.ask([spec(mode="split", stages=4)]))
    assert answer.outcome is not None and len(answer.outcome.pipeline) == 4
    pid = cluster.pid(added)
    assert cluster.cli("node", "remove", added).returncode == 2, "it must ask first"
    assert cluster.cli("node", "remove", added, "--yes").returncode == 0
    wait_for(lambda: added not in {node["name"] for node in cluster.status()["nodes"]})
    assert pid not in {entry.pid for entry in cluster.supervisor.running()}
    assert cluster.cli("node", "show", added).returncode == 2


def test_an_answered_request_is_in_the_store(cluster: Cluster) -> None:
    request = spec(max_tokens=1)
    with cluster.client() as client:
        collect(client.ask([request]))
    store = redis.Redis(unix_socket_path=str(cluster.home / "state/contexts/default/valkey/valkey.sock"))
    with store:
        assert any(request.id.encode() in key for key in store.scan_iter(count=1000))
