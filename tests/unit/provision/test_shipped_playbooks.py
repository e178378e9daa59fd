"""The shipped playbooks, as they turn out for a machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qaicl.provision import inventory
from qaicl.provision.bundle import Bundle, Manifest
from qaicl.provision.facts import Facts
from qaicl.provision.identity import CLIENT, Keyring, daemons
from qaicl.provision.playbook import Playbooks, Step, shipped
from qaicl.provision.secrets import SecretStore
from qaicl.provision.variables import Sources, variables

MANIFEST = Manifest(
    release="1-aa", digest="a", dependencies="d" * 64, inputs="", python="3.11", machine="x86_64", pins={}, wheels=[]
)


class Cluster:
    """An inventory, and what its playbooks mean for one of its hosts."""

    def __init__(self, tmp_path: Path, text: str = inventory.EXAMPLE, **secrets: str) -> None:
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        self.inventory = inventory.load(path)
        keyring = Keyring(tmp_path / "keys")
        keyring.ensure([CLIENT, *(daemon.name for daemon in daemons(self.inventory))])
        references = {name.replace("_", "-"): f"env:{name}" for name in secrets}
        store = SecretStore(references, tmp_path / "secrets", environ=secrets)
        self._sources = Sources(self.inventory, Bundle(tmp_path, MANIFEST), [], store, keyring)

    def steps(self, host: str, **facts: Any) -> dict[str, Step]:
        """The steps that apply to a host, by id."""
        (chosen,) = self.inventory.limited([host])
        given = variables(self._sources, chosen, Facts(os="debian", os_version="12", **facts))
        found = Playbooks(shipped()).steps("site", chosen, given)
        return {step.id: step for step in found if isinstance(step, Step)}

    def arguments(self, host: str, step: str, **facts: Any) -> dict[str, Any]:
        """A step's arguments."""
        plain: dict[str, Any] = msgspec.to_builtins(self.steps(host, **facts)[step].arguments)
        return plain


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


# --- the firewall ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seen", "opened"), [(0, 2201), (22, 22), (2201, 2201)])
def test_the_firewall_opens_the_port_where_ssh_listens_on_the_machine(tmp_path: Path, seen: int, opened: int) -> None:
    text = inventory.EXAMPLE.replace("address: 10.0.0.20", "address: 10.0.0.20\n    ssh_address: gate\n    port: 2201")
    rules = Cluster(tmp_path, text).arguments("vm-2", "firewall/firewall", ssh_port=seen)["content"]
    assert f"    tcp dport {opened} accept\n" in rules
    assert rules.count("2201") == (opened == 2201)


@pytest.mark.parametrize("before", ["table inet own { }\n", "table inet own { }", None])
@pytest.mark.parametrize("loads", [True, False])
def test_the_rules_are_included_only_in_a_file_that_loads_with_them(
    cluster: Cluster, tmp_path: Path, before: str | None, loads: bool
) -> None:
    file = tmp_path / "nftables.conf"
    if before is not None:
        file.write_text(before)
    (tmp_path / "nft").write_text(f'#!/bin/sh\ncat "$3" >> {tmp_path}/checked\n{"true" if loads else "exit 1"}\n')
    (tmp_path / "nft").chmod(0o755)
    arguments = cluster.arguments("vm-2", "firewall/firewall-at-boot")
    line = 'include "/etc/nftables.d/qaicl.nft"'

    def shell(script: str) -> int:
        script = f"PATH={tmp_path}:$PATH\n{script}".replace("/etc/nftables.conf", str(file))
        return subprocess.run(["sh", "-s"], input=script, text=True, stderr=subprocess.DEVNULL).returncode

    assert shell(arguments["unless"]) != 0
    assert shell(arguments["run"]) == (0 if loads else 1)
    assert line in (tmp_path / "checked").read_text().splitlines()
    if loads:
        assert file.read_text() == (f"{before.rstrip()}\n{line}\n" if before else f"{line}\n")
        assert shell(arguments["unless"]) == 0
        assert shell(arguments["undo"]) == 0
    assert (file.read_text().rstrip() if file.exists() else "") == (before or "").rstrip()


# --- what a machine has already -----------------------------------------------------------------------------


def test_another_time_service_stays(cluster: Cluster) -> None:
    assert "base/time-is-kept-in-step" in cluster.steps("vm-1")
    assert not [step for step in cluster.steps("vm-1", time_daemon="chrony") if step.startswith("base/time-")]


@pytest.mark.parametrize(
    ("settings", "said", "files", "ours"),
    [
        (None, "", (), True),
        ("port 6379", "# Keyspace", ("dump.rdb",), True),
        ("port 6379", "# Keyspace\\r\\ndb0:keys=1", (), False),
        ("port 6379", "NOAUTH Authentication required.", (), False),
        ("port 6379", "Could not connect", (), True),
        ("port 6379", "Could not connect", ("dump.rdb",), False),
        ("include /etc/redis/qaicl.conf", "NOAUTH Authentication required.", ("dump.rdb",), True),
    ],
)
def test_a_redis_with_data_of_another_program_is_left_alone(
    cluster: Cluster, tmp_path: Path, settings: str | None, said: str, files: tuple[str, ...], ours: bool
) -> None:
    (tmp_path / "data").mkdir()
    for name in files:
        (tmp_path / "data" / name).touch()
    if settings:
        (tmp_path / "redis.conf").write_text(f"{settings}\n")
    (tmp_path / "redis-cli").write_text(f"#!/bin/sh\nprintf '{said}\\r\\n'\n")
    (tmp_path / "redis-cli").chmod(0o755)
    arguments = cluster.arguments("vm-1", "redis/redis-holds-no-data-of-another-program")
    script = arguments["unless"].replace("/etc/redis/redis.conf", f"{tmp_path}/redis.conf")
    script = script.replace("/var/lib/redis", f"{tmp_path}/data")
    done = subprocess.run(["sh", "-s"], input=f"PATH={tmp_path}:$PATH\n{script}", text=True)
    assert (done.returncode == 0) is ours
    refused = subprocess.run(["sh", "-s"], input=arguments["run"], text=True, stderr=subprocess.PIPE)
    assert refused.returncode == 1 and "would lose it" in refused.stderr
    steps = list(cluster.steps("vm-1"))
    assert steps.index("redis/redis-holds-no-data-of-another-program") < steps.index("redis/redis-settings")


@pytest.mark.parametrize(
    ("host", "now", "says", "master"),
    [
        ("vm-1", "", "", ""),
        ("vm-2", "", "", "10.0.0.10"),
        ("vm-2", "", "10.0.0.30", "10.0.0.30"),
        ("vm-1", "", "10.0.0.30", "10.0.0.30"),  # the first, installed anew
        ("vm-2", "", "10.0.0.20", ""),
        ("vm-2", "", "ERR No such master", "10.0.0.10"),
        ("vm-2", "include /etc/redis/qaicl.conf", "10.0.0.30", ""),
        ("vm-1", "include /etc/redis/qaicl.conf\nreplicaof 10.0.0.30 6379", "", "10.0.0.30"),
    ],
)
def test_redis_begins_with_the_master_that_there_is(
    cluster: Cluster, tmp_path: Path, host: str, now: str, says: str, master: str
) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis.conf").write_text(f"{now}\n")
    (tmp_path / "sentinel.conf").write_text("sentinel monitor mymaster 127.0.0.1 6379 2\n")
    settings = cluster.arguments(host, "redis/sentinel-settings")["content"]
    (tmp_path / "qaicl-sentinel.conf").write_text(settings)
    (tmp_path / "qaicl.conf").touch()
    # The Sentinel of the third machine alone knows the cluster.
    answer = f'case "$*" in *10.0.0.30*) printf "{says}\\n6379\\n" ;; *) echo ;; esac'
    for program, body in (("redis-cli", answer if says else "exit 1"), ("chown", "")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / program).chmod(0o755)
    for step in ("redis-reads-the-settings", "sentinel-reads-the-settings"):
        run = cluster.arguments(host, f"redis/{step}")["run"]
        script = f"PATH={tmp_path}:$PATH\n{run}".replace("/etc/redis/", f"{tmp_path}/")
        script = script.replace(f"include {tmp_path}/", "include /etc/redis/").replace(
            "/var/lib/qaicl-provision", str(tmp_path)
        )
        assert subprocess.run(["sh", "-s"], input=script, text=True).returncode == 0
    wanted = ["include /etc/redis/qaicl.conf", *([f"replicaof {master} 6379"] if master else [])]
    assert (tmp_path / "redis.conf").read_text().splitlines() == wanted
    own = {"vm-1": "10.0.0.10", "vm-2": "10.0.0.20"}[host]
    assert f"\nsentinel monitor qaicl {master or own} 6379 2\n" in (tmp_path / "sentinel.conf").read_text()


# --- what is started at boot ---------------------------------------------------------------------------------


def test_what_binds_to_an_address_waits_for_the_network(cluster: Cluster) -> None:
    steps = cluster.steps("vm-1")
    for book, unit in (("redis", "redis-server"), ("redis", "redis-sentinel"), ("postgres", "postgresql@")):
        arguments = cluster.arguments("vm-1", f"{book}/unit-waits-for-the-network:{unit}")
        assert arguments["path"] == f"/etc/systemd/system/{unit}.service.d/qaicl.conf"
        assert "\nAfter=network-online.target\n" in arguments["content"]
        assert f"{book}/settings-of-a-unit:{unit}" in steps
    redis = cluster.arguments("vm-1", "redis/unit-waits-for-the-network:redis-server")["content"]
    assert "\nStartLimitIntervalSec=0\n" in redis and "\nRestartSec=1\n" in redis


@pytest.mark.parametrize(
    ("rule", "listens", "done"),
    [
        ("host qaicl qaicl 10.0.0.0/24 scram-sha-256", "127.0.0.1,10.0.0.10", True),
        ("host qaicl qaicl 10.9.0.0/24 scram-sha-256", "127.0.0.1,10.0.0.10", False),
        ("host qaicl qaicl 10.0.0.0/24 scram-sha-256", "localhost", False),
    ],
)
def test_postgres_listens_inside_and_lets_the_present_network_in(
    cluster: Cluster, tmp_path: Path, rule: str, listens: str, done: bool
) -> None:
    (tmp_path / "15/main").mkdir(parents=True)
    (tmp_path / "15/main/pg_hba.conf").write_text(f"local all all peer\n{rule}\n")
    (tmp_path / "runuser").write_text(f"#!/bin/sh\necho {listens}\n")
    (tmp_path / "runuser").chmod(0o755)
    script = cluster.arguments("vm-1", "postgres/postgresql-listens-inside")["unless"]
    script = f"PATH={tmp_path}:$PATH\n{script}".replace("/etc/postgresql", str(tmp_path))
    assert (subprocess.run(["sh", "-s"], input=script, text=True).returncode == 0) is done


# --- passwords that somebody chose ---------------------------------------------------------------------------


def test_a_password_may_hold_spaces_and_quotes(tmp_path: Path) -> None:
    hard = """it's "so" hard"""
    cluster = Cluster(tmp_path, redis_replica=hard, redis_sentinel=hard, postgres_qaicl=hard)
    word = '"it\'s \\\\"so\\\\" hard"'.replace("\\\\", "\\")
    assert f"\nmasterauth {word}\n" in cluster.arguments("vm-1", "redis/redis-settings")["content"]
    assert f"\nsentinel auth-pass qaicl {word}\n" in cluster.arguments("vm-1", "redis/sentinel-settings")["content"]
    stdin = cluster.arguments("vm-1", "postgres/role-and-database")["stdin"]
    assert """alter role qaicl password 'it''s "so" hard';""" in stdin


# --- roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "gone"), [("vm-1", "node"), ("vm-2", ""), ("vm-3", "orchestrator"), ("vm-4", "both")])
def test_a_daemon_of_a_role_that_a_machine_has_no_longer_is_ended(tmp_path: Path, host: str, gone: str) -> None:
    more = "  vm-4:\n    address: 10.0.0.40\n    roles: [postgres]\n"
    steps = Cluster(tmp_path, inventory.EXAMPLE + more).steps(host)
    ended = [
        role
        for role in ("orchestrator", "node")
        if f"qaicl/daemon-of-a-role-that-the-machine-no-longer-has:{role}" in steps
    ]
    assert ended == {"": [], "both": ["orchestrator", "node"]}.get(gone, [gone])
    for role in ended:
        first: Any = steps[f"qaicl/daemon-of-a-role-that-the-machine-no-longer-has:{role}"].arguments
        then: Any = steps[f"qaicl/unit-of-a-role-that-the-machine-no-longer-has:{role}"].arguments
        assert (first.name, first.running, first.enabled) == (f"qaicl-{role}", False, False)
        assert (then.name, then.absent) == (f"qaicl-{role}.service", True)
