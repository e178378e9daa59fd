"""The cluster on its three machines, while they lose power, reboot, are cut off and are upgraded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.command import wait_until
from harness.operator import CLUSTER, Finished, Operator

pytestmark = pytest.mark.lab

ALL = {"vm1", "vm2", "vm3"}
BACK = 120.0


@contextmanager
def continuous_questions(cluster: Operator) -> Iterator[list[Finished]]:
    """Somebody asks one question after the other; gives the list of what came back so far."""
    done: list[Finished] = []
    enough = threading.Event()

    def ask() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            words = ("--context", CLUSTER, "ask", "-o", "json", "--max-tokens", "8", f"Say the number {number}.")
            done.append(cluster.qaicl(*words, timeout=180))

    asking = threading.Thread(target=ask, name="continuous-questions")
    asking.start()
    try:
        yield done
    finally:
        enough.set()
        asking.join()


@pytest.mark.parametrize("victim", sorted(ALL))
def test_after_a_power_cut_and_return_the_cluster_serves_without_the_operator(cluster: Operator, victim: str) -> None:
    cluster.lab.power_cut(victim)
    wait_until(cluster.answers, f"an answer without {victim}", timeout=BACK, every=1)
    cluster.lab.power_on(victim)
    wait_until(lambda: cluster.alive_nodes() == ALL, f"{victim} is used again", timeout=BACK, every=1)
    assert cluster.answers("Hello", "--mode", "split", "--stages", "3")


def test_all_machines_reboot_at_once_and_everything_comes_back(cluster: Operator) -> None:
    cluster.lab.reboot(*ALL)
    wait_until(lambda: cluster.alive_nodes() == ALL, "three nodes", timeout=BACK, every=1)
    wait_until(cluster.answers, "an answer", timeout=BACK, every=1)


def test_a_node_that_is_cut_off_from_the_others_is_left_out_and_used_again(cluster: Operator) -> None:
    with continuous_questions(cluster) as answers:
        wait_until(lambda: answers, "a first answer", timeout=60)
        cluster.lab.partition(["vm3"], ["vm1", "vm2"])
        wait_until(lambda: "vm3" not in cluster.alive_nodes(), "vm3 counts as dead", timeout=60, every=0.5)
        before = len(answers)
        wait_until(lambda: len(answers) >= before + 3, "answers go on", timeout=120)
        cluster.lab.heal()
        wait_until(lambda: cluster.alive_nodes() == ALL, "vm3 is alive", timeout=60, every=0.5)
    assert [finished.tail for finished in answers if finished.code != 0] == []
    answer = cluster.ask("Hello", "--mode", "split", "--stages", "3", "--max-tokens", "4")
    assert "vm3" in {stage["node"] for stage in answer["pipeline"]}


def test_upgrade_while_a_client_asks_continuously_fails_no_request(cluster: Operator, tmp_path: Path) -> None:
    later = cluster.with_next_release(tmp_path / "home", tmp_path / "checkout")
    before = _releases(cluster)
    with continuous_questions(cluster) as answers:
        wait_until(lambda: answers, "a first answer", timeout=60)
        words = ("provision", "upgrade", "-f", str(later.inventory), "--yes", "-o", "json")
        later.qaicl(*words, timeout=800).expect(0)
        count = len(answers)
        wait_until(lambda: len(answers) > count + 3, "answers after it", timeout=120)
    assert [finished.tail for finished in answers if finished.code != 0] == []
    ids = [json.loads(finished.stdout)["request_id"] for finished in answers]
    assert len(set(ids)) == len(ids)
    after = _releases(cluster)
    assert len(set(after.values())) == 1
    assert not set(after.values()) & set(before.values())
    assert cluster.alive_nodes() == ALL


def test_a_release_that_does_not_start_is_taken_back_and_fails_no_request(cluster: Operator, tmp_path: Path) -> None:
    later = cluster.with_next_release(tmp_path / "home", tmp_path / "checkout", broken=True)
    before = _releases(cluster)
    with continuous_questions(cluster) as answers:
        wait_until(lambda: answers, "a first answer", timeout=60)
        done = later.qaicl("provision", "upgrade", "-f", str(later.inventory), "--yes", "-o", "json", timeout=800)
        wait_until(lambda: cluster.alive_nodes() == ALL, "three nodes", timeout=BACK, every=1)
    assert done.code == 1, done.tail
    assert "is back at" in done.tail
    assert "this release does not start" in done.tail
    assert [finished.tail for finished in answers if finished.code != 0] == []
    assert _releases(cluster) == before
    cluster.apply().expect(0)  # the later wheel lies beside the others; nothing uses it
    cluster.plan().expect(0)


def _releases(cluster: Operator) -> dict[str, str]:
    """Where each machine's environment in use lies."""
    return {name: cluster.lab.ssh(name, "readlink -f /opt/qaicl/current").stdout.strip() for name in sorted(ALL)}
