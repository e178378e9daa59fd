"""The checks: each on a machine where it holds and where it does not. Programs of the machine are scripts here."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from pretend import Machine

from qaicl.errors import PlaybookError
from qaicl.provision import checks, inventory
from qaicl.provision.checks import Checker, Finding
from qaicl.provision.events import Event, Events
from qaicl.provision.identity import NODE_PORT, ORCHESTRATOR_PORT
from qaicl.provision.playbook import Check
from qaicl.provision.secrets import SecretStore
from qaicl.provision.session import Session

PASSWORD = "the-operators-redis-password"


class Checking:
    """Runs one check on machines of which an inventory is made."""

    def __init__(self, machines: list[Machine], tmp_path: Path) -> None:
        roles = [("orchestrator", "node", "redis"), ("node", "redis"), ("node",)]
        hosts = tuple(dataclasses.replace(m.host, roles=r) for m, r in zip(machines, roles, strict=False))
        (tmp_path / "cluster.yaml").write_text(inventory.EXAMPLE)
        self.inventory = dataclasses.replace(inventory.load(tmp_path / "cluster.yaml"), hosts=hosts)
        self.secrets = SecretStore({"redis-operator": "env:P"}, tmp_path / "secrets", environ={"P": PASSWORD})
        self.events: list[Event] = []
        self.session = Session(self.secrets, Events(self.events.append, self.secrets.redact), 5.0)
        self.session.connect(hosts)

    def __call__(self, kind: str, limit: float = 0.0) -> list[Finding]:
        return Checker(self.inventory, self.secrets).run(self.session, [Check(kind, kind, "mend it", limit)])

    def one(self, kind: str, limit: float = 0.0) -> tuple[bool | None, str]:
        (finding,) = self(kind, limit)
        assert finding.fix == ("mend it" if finding.ok is False else "")
        return finding.ok, finding.found


@pytest.fixture
def check(machine: Machine, tmp_path: Path) -> Iterator[Checking]:
    made = Checking([machine], tmp_path)
    yield made
    made.session.close()


def test_a_check_that_there_is_not_is_refused(check: Checking) -> None:
    with pytest.raises(PlaybookError, match="no check 'weather'"):
        check("weather")


def test_a_machine_that_went_off_fails_its_checks(check: Checking, machine: Machine) -> None:
    machine.stop()
    ok, found = check.one("disk", 1.0)
    assert ok is False
    assert "connection" in found


def test_room_is_compared_with_the_limit(check: Checking) -> None:
    assert check.one("disk", 0.001)[0] is True
    ok, found = check.one("disk", 1e9)
    assert (ok, found.endswith("GB free")) == (False, True)


def test_a_clock_that_is_wrong_is_told_in_seconds(check: Checking, machine: Machine) -> None:
    assert check.one("clock", 0.5)[0] is True
    machine.fake("date", 'case "$1" in +%s.%N) echo 1000000000.0 ;; *) exec /bin/date "$@" ;; esac')
    ok, found = check.one("clock", 0.5)
    assert ok is False
    assert float(found.split()[0]) > 1e8


def test_time_that_nobody_keeps_is_found(check: Checking, machine: Machine) -> None:
    machine.fake("timedatectl", "echo no")
    assert check.one("time-sync") == (False, "NTPSynchronized=no")
    machine.fake("timedatectl", "echo yes")
    assert check.one("time-sync") == (True, "NTPSynchronized=yes")


def test_a_daemon_that_does_not_run_is_named(check: Checking, machine: Machine) -> None:
    machine.fake("systemctl", '[ "$1" = is-active ] && echo active && echo failed; true')
    assert check.one("daemons") == (False, "a-orchestrator active, a failed")
    machine.fake("systemctl", '[ "$1" = is-active ] && echo active && echo active; true')
    assert check.one("daemons")[0] is True
    machine.fake("systemctl", "echo no bus >&2; exit 1")
    assert check.one("daemons") == (False, "no bus")


def test_a_gpu_counts_where_there_is_one(check: Checking, machine: Machine) -> None:
    assert check.one("gpu")[0] is None
    there = check.session.machines[0]
    there.facts = msgspec.structs.replace(there.facts, pci_vendors=("0x10de",))
    machine.fake("nvidia-smi", "echo 'driver/library version mismatch' >&2; exit 18")
    assert check.one("gpu") == (False, "driver/library version mismatch")


def test_a_model_that_does_not_load_is_told_with_its_reason(check: Checking, machine: Machine) -> None:
    machine.fake("runuser", 'echo "$*" > /opt/asked; echo "Traceback" >&2; echo "ModelError: damaged" >&2; exit 1')
    assert check.one("model") == (False, "ModelError: damaged")
    assert "-u qaicl -- /opt/qaicl/current/bin/python" in machine.at("/opt/asked").read_text()
    machine.fake("runuser", "echo 272 tensors")
    assert check.one("model") == (True, "272 tensors")


# --- between machines ----------------------------------------------------------------------------------------


@pytest.fixture
def three(machines: Callable[[str], Machine], tmp_path: Path) -> Iterator[Checking]:
    made = Checking([machines(name) for name in "abc"], tmp_path)
    yield made
    made.session.close()


def test_every_daemon_and_every_redis_must_be_reached_from_everywhere(three: Checking) -> None:
    addresses = [host.address for host in three.inventory.hosts]
    wanted = [(addresses[0], ORCHESTRATOR_PORT), *((address, NODE_PORT) for address in addresses)]
    wanted += [(address, 6379) for address in addresses[:2]]
    servers = [socket.create_server(where) for where in wanted]
    try:
        for finding in three("network", 1000.0):
            assert finding.ok, finding
        assert [finding.found.split()[0] for finding in three("network", 1000.0)] == ["3", "4", "5"]
        slow = three("network", 0.0)
        assert all(finding.ok is False and " ms" in finding.found for finding in slow)
        servers[2].close()  # b's node
        found = {finding.host: finding for finding in three("network", 1000.0)}
        assert (found["a"].ok, found["b"].ok, found["c"].ok) == (False, True, False)
        assert found["a"].found.startswith("b: ")
        assert "refused" in found["c"].found
    finally:
        for server in servers:
            server.close()


def test_redis_is_judged_by_its_role_and_its_password_goes_over_stdin(check: Checking, machine: Machine) -> None:
    check.inventory = dataclasses.replace(
        check.inventory, hosts=(*check.inventory.hosts, dataclasses.replace(machine.host, name="other"))
    )

    def says(*lines: str) -> None:
        text = "".join(f"{line}\\r\\n" for line in lines)
        machine.fake("redis-cli", f'echo "$*" >> /opt/argv; cat > /opt/stdin; printf "{text}"')

    says("OK", "role:master", "connected_slaves:1")
    assert check.one("redis") == (True, "master with 1 replicas")
    says("OK", "role:slave", "master_host:10.0.0.1", "master_link_status:up")
    assert check.one("redis") == (True, "replica of 10.0.0.1, link up")
    assert machine.at("/opt/stdin").read_text().startswith(f"AUTH operator {PASSWORD}\n")
    assert PASSWORD not in machine.at("/opt/argv").read_text()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("role:master\\nconnected_slaves:0\\n", "master with 0 replicas"),
        ("role:slave\\nmaster_host:h\\nmaster_link_status:down\\n", "replica of h, link down"),
        ("WRONGPASS invalid username-password pair\\n", "WRONGPASS invalid username-password pair"),
        ("", "nothing was said"),
    ],
)
def test_a_redis_that_is_not_well_is_given_a_while_and_then_named(
    check: Checking, machine: Machine, monkeypatch: pytest.MonkeyPatch, lines: str, found: str
) -> None:
    monkeypatch.setattr(checks, "REDIS_SECONDS", 0.0)
    check.inventory = dataclasses.replace(
        check.inventory, hosts=(*check.inventory.hosts, dataclasses.replace(machine.host, name="other"))
    )
    machine.fake("redis-cli", f'cat > /dev/null; printf "{lines}"')
    assert check.one("redis") == (False, found)
