"""The lab is what the other lab tests stand on: it boots, breaks and mends as it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.command import wait_until
from harness.config import CONTROLLER, NAME_VARIABLE, LabConfig
from harness.errors import GuestOffError, LabBusyError, LabError
from harness.lab import Lab
from harness.machine import alive

pytestmark = pytest.mark.lab
HERE = Path(__file__).parent


@pytest.fixture
def up(lab: Lab) -> Iterator[Lab]:
    """The session's machines, all on, reachable and uncut, before and after."""
    yield lab
    lab.heal()
    for machine in lab.machines.values():
        if not machine.is_on:
            machine.power_on()
    lab.wait_reachable()


def test_machines_boot_with_name_address_and_working_systemd(up: Lab) -> None:
    for name, machine in up.machines.items():
        seen = up.ssh(name, "hostname; ip -4 -o address show host0; systemctl is-system-running --wait || true").stdout
        assert seen.splitlines()[0] == name
        assert machine.address in seen
        assert "running" in seen.splitlines()[-1]


def test_machines_and_controller_reach_each_other_and_nobody_else_reaches_them(up: Lab) -> None:
    for name in up.machines:
        for other in up.machines.values():
            assert _port_open(up, name, other.address), f"{name} → {other.name}"
    outside = subprocess.run(
        [sys.executable, "-c", "import socket; socket.create_connection(('10.0.0.10', 22), 2)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outside.returncode != 0
    assert "OSError" in outside.stderr  # EINVAL: the blackhole route refuses at once


def test_a_machine_with_another_host_key_is_refused(up: Lab) -> None:
    right = up.config.known_hosts.read_text()
    keys = {line.split()[0]: line.split(maxsplit=1)[1] for line in right.splitlines()}
    try:
        up.config.known_hosts.write_text(f"10.0.0.10 {keys['10.0.0.20']}\n")
        done = up.ssh("vm1", "true", check=False)
    finally:
        up.config.known_hosts.write_text(right)
    assert done.returncode == 255
    assert "verification failed" in done.stderr.lower()


def test_the_three_users_have_the_rights_they_should(up: Lab) -> None:
    assert up.ssh("vm1", "id -u").stdout.strip() == "0"
    assert up.ssh("vm1", "sudo -n id -u", user="admin").stdout.strip() == "0"
    assert up.ssh("vm1", "sudo -n id -u", user="plain", check=False).returncode != 0


def test_reboot_from_inside_starts_the_machine_again(up: Lab) -> None:
    before = up.machine("vm1").started()
    up.ssh("vm1", "echo kept > /var/tmp/mark")
    up.reboot("vm1")
    assert up.machine("vm1").started() != before
    assert up.ssh("vm1", "cat /var/tmp/mark").stdout == "kept\n"


def test_all_machines_reboot_at_once(up: Lab) -> None:
    before = {name: machine.started() for name, machine in up.machines.items()}
    up.reboot(*up.machines)
    assert all(machine.started() != before[name] for name, machine in up.machines.items())


def test_poweroff_from_inside_keeps_the_machine_off(up: Lab) -> None:
    up.ssh("vm2", "systemctl poweroff", check=False)
    wait_until(up.machine("vm2").is_off, "vm2 off")
    with pytest.raises(GuestOffError):
        up.machine("vm2").processes()


def test_power_cut_ends_every_process_and_the_disk_survives(up: Lab) -> None:
    machine = up.machine("vm3")
    up.ssh("vm3", "echo kept > /var/tmp/mark; sync; setsid -f sleep 1000 >/dev/null 2>&1")
    pids = [process.host_pid for process in machine.processes()]
    assert any(process.arguments == ("sleep", "1000") for process in machine.processes())
    up.power_cut("vm3")
    assert not [pid for pid in pids if alive(pid)]
    assert not up.reachable("vm3")
    up.power_cut("vm3")  # twice is as good as once
    up.power_on("vm3")
    assert up.ssh("vm3", "cat /var/tmp/mark").stdout == "kept\n"
    with pytest.raises(LabError):
        machine.power_on()


def test_processes_of_a_machine_are_stopped_continued_and_killed_from_the_host(up: Lab) -> None:
    up.ssh("vm1", "setsid -f sleep 1234 >/dev/null 2>&1")
    machine = up.machine("vm1")
    (victim,) = machine.signal_processes("sleep 1234", signal.SIGSTOP)
    wait_until(lambda: _state(victim.host_pid) == "T", "stopped")
    machine.signal_processes("sleep 1234", signal.SIGCONT)
    wait_until(lambda: _state(victim.host_pid) == "S", "continued")
    machine.signal_processes("sleep 1234", signal.SIGKILL)
    wait_until(lambda: "sleep 1234" not in [" ".join(process.arguments) for process in machine.processes()], "killed")
    with pytest.raises(LabError):
        machine.signal_processes("sleep 1234", signal.SIGKILL)


def test_a_service_stops_on_one_machine_while_it_runs_on_the_others(up: Lab) -> None:
    for name in up.machines:
        up.ssh(name, "systemd-run --quiet --unit=idle --property=TimeoutStopSec=60 sleep 4321")
    began = time.monotonic()
    up.ssh("vm1", "systemctl stop idle")
    assert time.monotonic() - began < 10
    assert up.ssh("vm2", "systemctl is-active idle").stdout.strip() == "active"
    up.ssh("vm2", "systemctl stop idle")
    up.ssh("vm3", "systemctl stop idle")


def test_partition_between_two_machines_leaves_all_else_and_heals(up: Lab) -> None:
    up.partition(["vm1"], ["vm2"])
    assert not _port_open(up, "vm1", "10.0.0.20")
    assert not _port_open(up, "vm2", "10.0.0.10")
    assert _port_open(up, "vm1", "10.0.0.30")
    assert _port_open(up, "vm3", "10.0.0.20")
    up.heal()
    assert _port_open(up, "vm1", "10.0.0.20")


def test_partition_from_the_controller_and_from_everybody(up: Lab) -> None:
    up.partition(["vm1"], [CONTROLLER])
    assert not up.reachable("vm1")
    assert up.reachable("vm2")
    assert _port_open(up, "vm2", "10.0.0.10")
    up.heal()
    up.partition(["vm1"])
    assert not up.reachable("vm1")
    assert not _port_open(up, "vm2", "10.0.0.10")
    assert len(up.network.cuts) == 2
    up.heal()
    assert up.reachable("vm1")
    assert up.network.cuts == []


def test_a_small_disk_is_full_soon(up: Lab) -> None:
    machine = up.machine("vm2")
    machine.small_disk("/srv/small", "64k")
    done = up.ssh("vm2", "head -c 1000000 /dev/zero > /srv/small/file", check=False)
    assert done.returncode != 0
    assert "No space left" in done.stderr
    machine.normal_disk("/srv/small")
    up.ssh("vm2", "head -c 1000000 /dev/zero > /srv/small/file && rm /srv/small/file")


def test_snapshot_brings_files_back_and_takes_later_ones_away(up: Lab) -> None:
    up.ssh("vm1", "echo early > /var/tmp/early; rm /etc/motd")
    up.save("test")
    up.ssh("vm1", "rm /var/tmp/early; echo late > /var/tmp/late")
    up.restore("test")
    assert up.ssh("vm1", "ls /var/tmp/early /var/tmp/late /etc/motd", check=False).stdout.split() == ["/var/tmp/early"]
    with pytest.raises(LabError):
        up.save("test")
    with pytest.raises(LabError):
        up.restore("nobody-saved-this")
    up.restore("bare")
    assert up.ssh("vm1", "ls /etc/motd").stdout.strip() == "/etc/motd"


def test_a_lab_in_use_is_refused_with_the_holder(up: Lab) -> None:
    done = _cli("reboot", "vm1", name=up.config.name)
    assert done.returncode == 1
    assert f"pid {os.getpid()}" in done.stderr
    with pytest.raises(LabBusyError), Lab(up.config).locked():
        pass


def test_the_terminal_shows_the_lab(up: Lab) -> None:
    done = _cli("status", name=up.config.name)
    assert done.returncode == 0, done.stderr
    assert "10.0.0.30" in done.stdout
    assert done.stdout.count("ssh answers") == 3
    shell = _cli("shell", "vm2", "hostname", name=up.config.name)
    assert shell.stdout.strip() == "vm2"
    run = _cli("run", "ip", "-4", "-o", "address", "show", "br0", name=up.config.name)
    assert "10.0.0.1/24" in run.stdout


OTHER = LabConfig("qaicl-halfdead")


@pytest.fixture
def other() -> Iterator[Lab]:
    """A second lab beside the session's, with the same addresses."""
    lab = Lab(OTHER)
    lab.down()
    yield lab
    lab.down()


@pytest.mark.parametrize("moment", ["disks", "network", "power vm1", "power vm3"])
def test_up_after_an_up_that_was_killed_half_way(lab: Lab, other: Lab, moment: str) -> None:
    """kill -9 right after each step's announcement; then ``up`` works and ``down`` leaves nothing."""
    running = subprocess.Popen(
        [sys.executable, str(HERE / "lab.py"), "up"],
        env=os.environ | {NAME_VARIABLE: OTHER.name},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    with running:
        for line in running.stderr:
            if line.strip() == f"lab: {moment}":
                running.kill()
                break
        else:
            pytest.fail(f"'up' never came to {moment!r}")
    assert running.returncode == -signal.SIGKILL
    assert other.leftovers()
    again = _cli("up", name=OTHER.name)
    assert again.returncode == 0, again.stderr
    assert other.ssh("vm1", "hostname").stdout.strip() == "vm1"
    assert lab.ssh("vm1", "hostname").stdout.strip() == "vm1"  # the lab beside it never noticed
    down = _cli("down", name=OTHER.name)
    assert down.returncode == 0, down.stderr
    assert other.leftovers() == []


def test_a_machine_whose_hypervisor_was_killed_is_found_and_ended(other: Lab) -> None:
    other.up()
    machine = other.machine("vm1")
    leader = machine.leader
    assert leader is not None
    os.kill(_parent(_parent(leader)), signal.SIGKILL)
    assert machine.is_on  # without a hypervisor, and running
    other.power_cut("vm1")
    assert not alive(leader)
    other.power_on("vm1")
    os.kill(_parent(_parent(machine.leader or 0)), signal.SIGKILL)
    other.down()
    assert other.leftovers() == []


def test_down_takes_away_what_a_stubborn_machine_still_does(other: Lab) -> None:
    """Neither a process that ignores signals nor a full disk nor a partition stops ``down``."""
    other.up()
    other.ssh("vm1", "setsid -f sh -c 'trap \"\" TERM INT HUP; while :; do sleep 1; done' >/dev/null 2>&1")
    other.machine("vm2").small_disk("/srv/small", "64k")
    other.partition(["vm3"])
    began = time.monotonic()
    other.down()
    assert time.monotonic() - began < 10
    assert other.leftovers() == []


def _cli(*words: str, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "lab.py"), *words],
        env=os.environ | {NAME_VARIABLE: name},
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _port_open(lab: Lab, name: str, address: str, port: int = 22) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', {port}), 1.5)"
    return lab.ssh(name, f'python3 -c "{probe}"', check=False).returncode == 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
