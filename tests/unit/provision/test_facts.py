"""What a machine is: read from what it says, and whether the playbooks know such a machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qaicl.provision import facts
from qaicl.provision.facts import Facts


def test_the_script_tells_of_a_real_machine() -> None:
    said = subprocess.run(["sh", "-s"], input=facts.SCRIPT, capture_output=True, text=True, check=True).stdout
    found = facts.parse(said)
    assert found.cpus >= 1
    assert found.memory_kb > 0
    assert found.disk_free_kb > 0
    assert found.boot_id and found.kernel and found.arch
    assert found.started_at < found.time


@pytest.mark.parametrize(
    ("packages", "daemon"),
    [("ii  chrony", "chrony"), ("rc  ntp\\nhi  openntpd", "openntpd"), ("un  chrony", ""), ("", "")],
)
def test_another_time_service_is_known_by_its_package(tmp_path: Path, packages: str, daemon: str) -> None:
    (tmp_path / "dpkg-query").write_text(f"#!/bin/sh\nprintf '{packages}\\n'\n")
    (tmp_path / "dpkg-query").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-s"], input=facts.SCRIPT, env=environment, capture_output=True, text=True, check=True)
    assert facts.parse(done.stdout).time_daemon == daemon


def test_the_python_is_the_distributions_whatever_comes_first_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\necho 9.9\n")
    (tmp_path / "python3").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-s"], input=facts.SCRIPT, env=environment, capture_output=True, text=True, check=True)
    assert facts.parse(done.stdout).python != "9.9"


@pytest.mark.parametrize("hidden", [False, True])
def test_the_port_where_ssh_listens_is_told_also_where_sudo_hides_it(hidden: bool) -> None:
    # Another shell above, as sudo is: what it takes away it has itself.
    command = ["sh", "-c", "env -u SSH_CONNECTION sh -s; :"] if hidden else ["sh", "-s"]
    environment = os.environ | {"SSH_CONNECTION": "192.0.2.1 40000 10.0.0.20 22"}
    done = subprocess.run(command, input=facts.SCRIPT, env=environment, capture_output=True, text=True, check=True)
    assert facts.parse(done.stdout).ssh_port == 22


def test_what_a_machine_does_not_tell_stays_open() -> None:
    assert facts.parse("") == Facts()
    assert facts.parse("a greeting\nPATH=/bin\ncpus=\nmemory_kb=12\n") == Facts(memory_kb=12)


@pytest.mark.parametrize(
    ("vendors", "nvidia"), [("0x10de", True), ("0x8086 0x10de 0x1af4", True), ("0x1002", False), ("", False)]
)
def test_a_gpu_is_known_by_its_vendor(vendors: str, nvidia: bool) -> None:
    assert facts.parse(f"pci_vendors={vendors} ").nvidia is nvidia


def test_a_reboot_shows_in_the_kernels_id_or_in_the_start_of_pid_1() -> None:
    before = Facts(boot_id="k", init_start=1)
    assert before.boot != Facts(boot_id="l", init_start=1).boot
    assert before.boot != Facts(boot_id="k", init_start=2).boot


GOOD = {"os": "debian", "os_version": "12", "init": "systemd", "arch": "x86_64"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, ""),
        ({"os_version": "13", "arch": "aarch64"}, ""),
        ({"os": "ubuntu", "os_version": "24.04"}, ""),
        ({"os": "ubuntu", "os_version": "22.04"}, "it runs ubuntu 22.04"),
        ({"os_version": "11"}, "it runs debian 11"),
        ({"os_version": ""}, "it runs debian"),
        ({"os": "", "os_version": ""}, "it runs an unknown system"),
        ({"os": "fedora", "os_version": "42"}, "it runs fedora 42"),
        ({"arch": "riscv64"}, "its architecture is riscv64"),
        ({"init": "runit"}, "PID 1 is 'runit', not systemd"),
    ],
)
def test_why_the_playbooks_cannot_work_there(more: dict[str, str], why: str) -> None:
    assert facts.unsupported(Facts(**{**GOOD, **more})) == why
