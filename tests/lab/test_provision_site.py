"""From three bare machines to a cluster that answers, and a second look that finds nothing to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.operator import CLUSTER, Operator

pytestmark = pytest.mark.lab

QUESTION = ("--mode", "split", "--stages", "2", "--seed", "7", "--temperature", "0.8", "--max-tokens", "24")
PROMPT = "Name three colours of the rainbow."


@pytest.fixture(scope="module")
def local_answer(cluster_operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a local cluster on this machine says to the same question, in float32."""
    home = tmp_path_factory.mktemp("local")
    models = cluster_operator.home / "data" / "models"
    env = os.environ | {"QAICL_HOME": str(home), "QAICL_MODELS_DIRECTORY": str(models), "NO_COLOR": "1"}
    env |= {"PYTHONPATH": str(cluster_operator.checkout)}

    def qaicl(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "qaicl", *words],
            env=env,
            cwd=cluster_operator.checkout,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        qaicl("up", "--nodes", "2", "--orchestrators", "1", "--precision", "float32", "--model", "smollm2-135m")
        answer: dict[str, Any] = json.loads(qaicl("ask", "-o", "json", *QUESTION, PROMPT))
        return answer
    finally:
        qaicl("down")


def test_bare_machines_become_a_cluster_that_answers_like_the_local_one(
    cluster: Operator, local_answer: dict[str, Any]
) -> None:
    answer = cluster.ask(PROMPT, *QUESTION)
    stages = answer["pipeline"]
    assert len({stage["node"] for stage in stages}) == 2
    assert stages[0]["layers"][0] == 0
    assert stages[1]["layers"][0] == stages[0]["layers"][1] + 1
    assert answer["text"] == local_answer["text"]
    assert answer["token_ids"] == local_answer["token_ids"]
    assert len(answer["token_ids"]) > 5


def test_the_first_run_told_every_step_of_every_host(cluster_operator: Operator) -> None:
    assert cluster_operator.first_run is not None
    events = cluster_operator.first_run.events
    assert {event["version"] for event in events} == {1}
    assert {event["host"] for event in events if event["kind"] == "step-done"} == {"vm1", "vm2", "vm3"}
    assert events[-1]["kind"] == "run-done"


def test_second_plan_has_nothing_to_change(cluster: Operator) -> None:
    plan = cluster.plan().expect(0)
    assert "step-started" not in plan.stdout


def test_a_file_changed_by_hand_is_shown_and_repaired(cluster: Operator) -> None:
    path = "/var/lib/qaicl/config/contexts/default/config.toml"
    before = cluster.lab.ssh("vm2", f"cat {path}").stdout
    cluster.lab.ssh("vm2", f"echo '# changed by hand' >> {path}")
    hosts = json.loads(cluster.plan("-o", "json").expect(3).stdout)["hosts"]
    changes = {host["name"]: host["changes"] for host in hosts if host["changes"]}
    assert set(changes) == {"vm2"}
    (diff,) = [change["diff"] for change in changes["vm2"] if change["operation"] == "template"]
    lines = [line for line in diff.splitlines() if line.startswith(("+", "-")) and path not in line]
    assert lines == ["-# changed by hand"]
    # The daemons read it anew, and nothing else happens.
    assert {change["operation"] for change in changes["vm2"]} <= {"template", "service", "wait_for"}
    run = cluster.apply().expect(0)
    assert {event["host"] for event in run.events if event["kind"] == "step-done"} == {"vm2"}
    assert cluster.lab.ssh("vm2", f"cat {path}").stdout == before
    cluster.plan().expect(0)
    assert cluster.answers()


def test_the_operator_has_a_context_with_a_key_of_its_own(cluster: Operator) -> None:
    context = cluster.home / "config" / "contexts" / CLUSTER
    assert "10.0.0.10:5000" in (context / "endpoints.toml").read_text()
    secrets = list((context / "keys").glob("*.key_secret"))
    assert [path.name for path in secrets] == ["client.key_secret"]
    assert secrets[0].stat().st_mode & 0o077 == 0


def test_units_run_as_their_own_user_and_start_at_boot(cluster: Operator) -> None:
    for name in ("vm1", "vm2"):
        for unit in ("qaicl-node", "qaicl-orchestrator"):
            shown = cluster.lab.ssh(name, f"systemctl show {unit}").stdout.splitlines()
            assert {"ActiveState=active", "UnitFileState=enabled", "User=qaicl"} <= set(shown)
            assert {"ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(shown)
        daemons = [p for p in cluster.lab.machine(name).processes() if "daemon" in p.arguments]
        uid = int(cluster.lab.ssh(name, "id -u qaicl").stdout)
        assert daemons
        assert {Path(f"/proc/{process.host_pid}").stat().st_uid for process in daemons} == {uid}


def test_only_the_named_ports_are_open_inside(cluster: Operator) -> None:
    for port, is_open in ((22, True), (5000, True), (5001, True), (6379, True), (26379, True), (9, False)):
        assert _open(cluster, "10.0.0.20", port) is is_open, port
    cluster.lab.ssh("vm2", "systemd-run --quiet --unit=intruder python3 -m http.server 7777")
    assert not _open(cluster, "10.0.0.20", 7777)


def _open(cluster: Operator, address: str, port: int) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', {port}), 1.5)"
    return cluster.lab.ssh("vm1", f'python3 -c "{probe}"', check=False).returncode == 0
