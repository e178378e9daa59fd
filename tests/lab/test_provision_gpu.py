"""A machine with an NVIDIA device gets its driver, is booted into it, and the run goes on; the device is a stand-in."""

from __future__ import annotations

import pytest
from harness.gpu import DRIVER_PACKAGES, VERSION, plug_in
from harness.lab import Lab
from harness.operator import Operator

pytestmark = pytest.mark.lab

TAGS = ("--tags", "base", "--tags", "gpu", "--tags", "firewall")
# Archives of somebody else's: a flat one, as NVIDIA's own, has no parts, and must not be asked for Debian's.
OTHERS = "deb [trusted=yes] file:/srv/others ./\n"
NEW_STYLE = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: file:/srv/others
Suites: ./
Trusted: yes
"""


def test_the_driver_is_installed_the_machine_reboots_and_the_run_goes_on(bare: Lab, operator: Operator) -> None:
    with_gpu = ("vm2", "vm3")
    for name in with_gpu:
        plug_in(bare, name)
        bare.ssh(name, "mkdir /srv/others; : > /srv/others/Packages")
    bare.ssh("vm2", "cat > /etc/apt/sources.list.d/others.list", stdin=OTHERS)
    bare.ssh("vm3", "rm /etc/apt/sources.list; cat > /etc/apt/sources.list.d/debian.sources", stdin=NEW_STYLE)
    started = {name: bare.machine(name).started() for name in with_gpu}
    done = operator.apply(*TAGS).expect(0)

    assert {event["host"] for event in done.events if event["kind"] == "rebooted"} == set(with_gpu)
    for name in with_gpu:
        assert bare.machine(name).started() != started[name]
        installed = bare.ssh(name, f"dpkg-query -W -f '${{Version}} ' {' '.join(DRIVER_PACKAGES)}").stdout
        assert installed.split() == [VERSION] * len(DRIVER_PACKAGES)
        assert bare.ssh(name, "nvidia-smi -L").stdout.startswith("GPU 0")
        assert "table inet qaicl" in bare.ssh(name, "nft list tables").stdout  # a step behind the reboot
        parts = bare.ssh(name, "apt-get indextargets --format '$(ORIGIN) $(COMPONENT)' 'Created-By: Packages'").stdout
        assert "Debian non-free" in parts.splitlines()
    assert bare.ssh("vm2", "cat /etc/apt/sources.list.d/others.list").stdout == OTHERS
    new_style = NEW_STYLE.replace("Components: main", "Components: main contrib non-free non-free-firmware")
    assert bare.ssh("vm3", "cat /etc/apt/sources.list.d/debian.sources").stdout.strip() == new_style.strip()
    assert bare.ssh("vm1", "command -v nvidia-smi", check=False).returncode != 0
    operator.plan(*TAGS).expect(0)


def test_a_device_that_does_not_compute_fails_the_check_and_others_skip_it(cluster: Operator) -> None:
    plug_in(cluster.lab, "vm2")
    cluster.apply("--tags", "gpu").expect(0)
    said = cluster.qaicl("provision", "verify", "-f", str(cluster.inventory), "-o", "json")
    said.expect(1)
    assert "no NVIDIA device, skipped" in said.stdout
    # The driver answers; what fails is the matrix product, as this torch is a CPU build.
    assert "Torch not compiled with CUDA enabled" in said.stdout
