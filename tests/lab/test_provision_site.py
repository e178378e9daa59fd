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


def test_from_outside_only_ssh_and_the_public_ports_are_let_in(cluster: Operator) -> None:
    cluster.lab.ssh("vm2", "ip address add 192.0.2.7/32 dev lo")
    cluster.lab.ssh("vm1", "ip route add 192.0.2.7/32 via 10.0.0.20")
    inside = {port: _knock(cluster, "10.0.0.20", port) for port in (22, 80, 5000, 6379, 5432)}
    assert inside == {22: "open", 80: "refused", 5000: "open", 6379: "open", 5432: "open"}
    outside = {port: _knock(cluster, "192.0.2.7", port) for port in (22, 80, 443, 5000, 5001, 6379, 26379, 5432)}
    let_in = {22: "open", 80: "refused", 443: "refused"}  # refused: nothing listens there, but the packet arrived
    assert outside == let_in | dict.fromkeys((5000, 5001, 6379, 26379, 5432), "dropped")


def test_rules_of_the_machines_own_stay_beside_ours(cluster: Operator) -> None:
    cluster.lab.ssh("vm2", "echo 'table inet own { }' >> /etc/nftables.conf")
    cluster.lab.reboot("vm2")
    assert {"table inet own", "table inet qaicl"} <= set(cluster.lab.ssh("vm2", "nft list tables").stdout.splitlines())
    cluster.plan("--tags", "firewall").expect(0)


def _knock(cluster: Operator, source: str, port: int) -> str:
    """What vm2 meets with that source address at a port of vm1."""
    probe = (
        "import socket\n"
        f"try: socket.create_connection(('10.0.0.10', {port}), 1.5, ('{source}', 0)); print('open')\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except TimeoutError: print('dropped')\n"
    )
    return cluster.lab.ssh("vm2", "python3 -", stdin=probe).stdout.strip()


def test_redis_keeps_every_write_on_two_replicas_that_sentinel_can_promote(cluster: Operator) -> None:
    password = next(cluster.home.rglob("redis-operator")).read_text().strip()

    own = next(cluster.home.rglob("secrets/sentinel")).read_text().strip()
    sentinels = f"AUTH {own}\nSENTINEL CKQUORUM qaicl\nSENTINEL MASTER qaicl\n"

    def redis(name: str, *commands: str) -> str:
        words = f"AUTH operator {password}\n" + "".join(f"{command}\n" for command in commands)
        return cluster.lab.ssh(name, "redis-cli", stdin=words).stdout

    roles = {name: redis(name, "INFO replication") for name in cluster.lab.machines}
    (master,) = [name for name, text in roles.items() if "role:master" in text]
    assert "connected_slaves:2" in roles[master]
    for name, machine in cluster.lab.machines.items():
        settings = redis(name, *(f"CONFIG GET {key}" for key in ("appendonly", "min-replicas-to-write", "bind")))
        assert settings.split()[1:] == [
            *("appendonly", "yes", "min-replicas-to-write", "1", "bind", "127.0.0.1", machine.address)
        ]
        assert "NOAUTH" in cluster.lab.ssh(name, "redis-cli ping").stdout
        assert "NOAUTH" in cluster.lab.ssh(name, "redis-cli -p 26379 sentinel masters").stdout
        said = cluster.lab.ssh(name, "redis-cli -p 26379", stdin=sentinels).stdout
        assert "OK 3 usable Sentinels" in said
        known = said.split()
        assert known[known.index("quorum") + 1] == "2"


def test_postgres_has_a_role_and_a_database_of_its_own(cluster: Operator) -> None:
    look = "select datname || ' ' || pg_get_userbyid(datdba) from pg_database where datname = 'qaicl'"
    done = cluster.lab.ssh("vm1", "cd /; runuser -u postgres -- psql -tA", stdin=look)
    assert done.stdout.strip() == "qaicl qaicl"


def _open(cluster: Operator, address: str, port: int) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', {port}), 1.5)"
    return cluster.lab.ssh("vm1", f'python3 -c "{probe}"', check=False).returncode == 0
