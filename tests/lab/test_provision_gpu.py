"""A machine with an NVIDIA device gets its driver, is booted into it, and the run goes on; the device is a stand-in."""

from __future__ import annotations

import pytest
from harness.gpu import DRIVER_PACKAGES, VERSION, plug_in
from harness.lab import Lab
from harness.operator import Operator

pytestmark = pytest.mark.lab

OTHERS = "deb [trusted=yes] file:/srv/others ./\n"


def test_the_driver_is_installed_the_machine_reboots_and_the_run_goes_on(bare: Lab, operator: Operator) -> None:
    plug_in(bare, "vm2")
    # An archive of somebody else's, flat as NVIDIA's own: it has no parts, and must not be asked for Debian's.
    bare.ssh("vm2", "mkdir /srv/others; : > /srv/others/Packages; cat > /etc/apt/sources.list.d/o.list", stdin=OTHERS)
    sources = bare.ssh("vm2", "cat /etc/apt/sources.list /etc/apt/sources.list.d/o.list").stdout
    started = bare.machine("vm2").started()
    done = operator.apply("--tags", "gpu", "--tags", "firewall", "--tags", "base").expect(0)

    assert {event["host"] for event in done.events if event["kind"] == "rebooted"} == {"vm2"}
    assert bare.machine("vm2").started() != started
    installed = bare.ssh("vm2", f"dpkg-query -W -f '${{Version}} ' {' '.join(DRIVER_PACKAGES)}").stdout
    assert installed.split() == [VERSION] * len(DRIVER_PACKAGES)
    assert bare.ssh("vm2", "nvidia-smi -L").stdout.startswith("GPU 0")
    assert "table inet qaicl" in bare.ssh("vm2", "nft list tables").stdout  # the steps behind the reboot
    components = bare.ssh("vm2", "apt-get indextargets --format '$(ORIGIN) $(COMPONENT)' 'Created-By: Packages'").stdout
    assert "Debian non-free" in components.splitlines()
    assert bare.ssh("vm2", "cat /etc/apt/sources.list /etc/apt/sources.list.d/o.list").stdout == sources
    for other in ("vm1", "vm3"):
        assert bare.ssh(other, "command -v nvidia-smi", check=False).returncode != 0
    operator.plan("--tags", "gpu", "--tags", "firewall", "--tags", "base").expect(0)


def test_a_device_that_does_not_compute_fails_the_check_and_others_skip_it(cluster: Operator) -> None:
    plug_in(cluster.lab, "vm2")
    cluster.apply("--tags", "gpu").expect(1)
    said = cluster.qaicl("provision", "verify", "-f", str(cluster.inventory), "-o", "json")
    said.expect(1)
    assert "no NVIDIA device, skipped" in said.stdout
    # The driver answers by now; what fails is the matrix product, as this torch is a CPU build.
    assert "Torch not compiled with CUDA enabled" in said.stdout
