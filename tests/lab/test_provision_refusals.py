"""What goes wrong before or during a run is said clearly, and nothing is left half done."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.command import wait_until
from harness.lab import Lab
from harness.operator import Operator, seen
from harness.sampler import Sampler

pytestmark = pytest.mark.lab


def _touched(lab: Lab, name: str) -> bool:
    """Whether provisioning left anything on a machine."""
    look = "ls -d /var/lib/qaicl* /opt/qaicl /etc/systemd/system/qaicl* 2>/dev/null"
    return bool(lab.ssh(name, look, check=False).stdout.strip())


def test_wrong_host_key_stops_everything_before_anything_is_sent(bare: Lab, operator: Operator) -> None:
    operator.edit_host("vm2", host_key=bare.machine("vm3").host_key)
    before = _logins(bare, "vm2")
    done = operator.apply("--tags", "base").expect(5)
    assert _logins(bare, "vm2") == before + 1  # the one that counts them
    assert "vm2" in done.tail
    assert not any(_touched(bare, name) for name in bare.machines)


def _logins(lab: Lab, name: str) -> int:
    """How often somebody told a machine who they are, in vain or not; this look is one more."""
    look = "journalctl --no-pager --output cat --unit ssh | grep -cE '^(Accepted|Failed) |authenticating user'"
    return int(lab.ssh(name, look).stdout)


def test_a_user_without_sudo_is_refused(bare: Lab, operator: Operator) -> None:
    operator.edit_host("vm1", user="plain")
    done = operator.apply("--tags", "base").expect(5)
    assert "vm1" in done.tail
    assert "sudo" in done.tail
    assert not any(_touched(bare, name) for name in bare.machines)


def test_a_user_with_sudo_is_as_good_as_root(bare: Lab, operator: Operator) -> None:
    for name in bare.machines:
        operator.edit_host(name, user="admin")
    operator.apply("--tags", "base").expect(0)
    operator.plan("--tags", "base").expect(0)


def test_a_user_whose_sudo_asks_gives_the_password_where_nobody_sees_it(bare: Lab, operator: Operator) -> None:
    password = "correct horse battery"
    for name in bare.machines:
        bare.ssh(name, "useradd -m -s /bin/bash ops; chpasswd; usermod -aG sudo ops", stdin=f"ops:{password}\n")
        bare.ssh(name, "cp -r /root/.ssh /home/ops/; chown -R ops: /home/ops/.ssh")
        operator.edit_host(name, user="ops")
    assert bare.ssh("vm1", "sudo -n true", user="ops", check=False).returncode != 0
    done = operator.apply("--tags", "base").expect(5)
    assert "sudo_password" in done.tail  # what to do about it

    secret = operator.home / "sudo"
    secret.write_text("wrong")
    secret.chmod(0o600)
    operator.change_inventory(secrets={"sudo_password": f"file:{secret}"})
    done = operator.apply("--tags", "base").expect(5)
    assert not any(_touched(bare, name) for name in bare.machines)

    secret.write_text(password)
    with Sampler(bare) as sampler:
        done = operator.apply("--tags", "base").expect(0)
    assert sampler.rounds > 5
    assert password not in "\n".join(sampler.seen) + done.stdout + done.stderr
    operator.plan("--tags", "base").expect(0)


def test_an_unsupported_distribution_is_named_and_left_alone(bare: Lab, operator: Operator) -> None:
    bare.ssh("vm3", "sed -i 's/^ID=.*/ID=gentoo/; s/^VERSION_ID=.*/VERSION_ID=2/' /usr/lib/os-release")
    done = operator.apply("--tags", "base")
    assert done.code == 1, done.tail
    assert "vm3" in done.tail
    assert "gentoo" in done.tail
    assert bare.ssh("vm3", "dpkg-query -W nftables", check=False).returncode != 0


def test_a_broken_mirror_is_named_and_a_later_run_completes(bare: Lab, operator: Operator) -> None:
    sources = bare.ssh("vm2", "cat /etc/apt/sources.list").stdout
    bare.ssh("vm2", "echo 'deb http://10.0.0.1:9/debian bookworm main' > /etc/apt/sources.list")
    done = operator.apply("--tags", "base").expect(1)
    assert "vm2" in done.tail
    assert "mirror" in done.tail
    assert bare.ssh("vm1", "dpkg-query -W nftables").returncode == 0  # the others went on
    assert bare.ssh("vm2", "dpkg --audit").stdout == ""
    bare.ssh("vm2", "cat > /etc/apt/sources.list", stdin=sources)
    operator.apply("--tags", "base").expect(0)
    operator.plan("--tags", "base").expect(0)


def test_a_full_disk_is_named_and_a_later_run_completes(bare: Lab, operator: Operator) -> None:
    words = ("--limit", "vm3", "--tags", "base", "--tags", "python")
    bare.machine("vm3").small_disk("/opt", "2M")
    bare.machine("vm3").small_disk("/var/lib/qaicl-staging", "2M")
    done = operator.apply(*words).expect(1)
    assert "vm3" in done.tail
    assert "No space left" in done.tail or "disk is full" in done.tail
    assert bare.ssh("vm3", "test -e /opt/qaicl/current", check=False).returncode != 0
    bare.machine("vm3").normal_disk("/opt")
    bare.machine("vm3").normal_disk("/var/lib/qaicl-staging")
    operator.apply(*words).expect(0)
    assert bare.ssh("vm3", "/opt/qaicl/current/bin/qaicl --version").stdout.startswith("qaicl ")


def test_a_file_that_was_tampered_with_never_lands(bare: Lab, operator: Operator) -> None:
    operator.apply("--tags", "base").expect(0)
    victim = _some_wheel(operator.home)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.unlink()  # the file is shared with other operators: never write into it
    victim.write_bytes(data)
    done = operator.apply("--tags", "base", "--tags", "python").expect(1)
    assert "checksum" in done.tail or "damaged" in done.tail
    assert victim.name in done.tail
    for name in bare.machines:
        assert bare.ssh(name, f"test -e /opt/qaicl/wheels/{victim.name}", check=False).returncode != 0
        assert bare.ssh(name, "test -e /opt/qaicl/current", check=False).returncode != 0


def test_two_controllers_at_once_and_the_second_learns_who_is_first(
    bare: Lab, operator: Operator, tmp_path: Path
) -> None:
    other = Operator(bare, tmp_path / "other", operator.checkout)
    first = operator.start(*operator.apply_words("--tags", "base"))
    with first:
        next(seen(first, "step-started"))
        second = other.apply("--tags", "base").expect(1)
        assert f"process {first.pid}" in second.tail
        assert first.stdout is not None
        first.stdout.read()
    assert first.returncode == 0
    wait_until(lambda: other.plan("--tags", "base").code == 0, "the lock is free again", timeout=20)


def test_a_machine_without_power_is_named_and_a_later_run_completes_it(bare: Lab, operator: Operator) -> None:
    bare.power_cut("vm3")
    done = operator.apply("--tags", "base").expect(4)
    assert "vm3" in done.tail
    assert "vm1 " not in [event.get("text", "") for event in done.events if event["kind"] == "host-unreachable"]
    for name in ("vm1", "vm2"):
        assert bare.ssh(name, "dpkg-query -W nftables").returncode == 0
    bare.power_on("vm3")
    operator.apply("--tags", "base").expect(0)
    operator.plan("--tags", "base").expect(0)


def test_a_machine_that_loses_power_during_the_run_is_completed_later(bare: Lab, operator: Operator) -> None:
    running = operator.start(*operator.apply_words("--tags", "base"))
    with running:
        next(seen(running, "step-started", "vm2"))
        bare.power_cut("vm2")
        assert running.stdout is not None
        said = running.stdout.read()
    assert running.returncode == 4, said
    assert bare.ssh("vm1", "dpkg-query -W nftables").returncode == 0
    bare.power_on("vm2")
    operator.apply("--tags", "base").expect(0)
    operator.plan("--tags", "base").expect(0)


def _some_wheel(home: Path) -> Path:
    """A wheel of the bundle that qaicl does not build anew."""
    wheels = sorted(home.glob("data/**/wheels/*.whl"))
    return next(wheel for wheel in wheels if wheel.name.startswith("numpy-"))
