"""Machines without a mirror and without a way out get their packages from the operator."""

from __future__ import annotations

import pytest
from harness.lab import Lab
from harness.operator import Operator

pytestmark = pytest.mark.lab

TAGS = ("--tags", "base", "--tags", "redis")
DEAD = "http://10.0.0.1:9/debian"

# What the lab lends its machines (downloaded packages, lists) would hide a mirror that is asked after all.
CUT_OFF = f"""
set -e
echo 'deb {DEAD} bookworm main' > /etc/apt/sources.list
rm -rf /etc/apt/sources.list.d/* /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
ip route del default
"""


@pytest.fixture
def offline(bare: Lab) -> Lab:
    """Three bare machines that reach each other and the controller, and nothing else."""
    for name in bare.machines:
        bare.ssh(name, CUT_OFF)
        assert bare.ssh(name, "apt-get -q update 2>&1; apt-get -q -y install nftables", check=False).returncode != 0
    return bare


def test_machines_without_a_mirror_get_their_packages_from_the_bundle(offline: Lab, operator: Operator) -> None:
    refused = operator.apply(*TAGS).expect(1)
    assert "mirror" in refused.tail  # the setting is what makes the difference
    operator.write_inventory({"packages": "bundle"})
    done = operator.apply(*TAGS).expect(0)
    assert {event["host"] for event in done.events if event["kind"] == "host-done"} == set(offline.machines)
    operator.plan(*TAGS).expect(0)
    for name in offline.machines:
        assert offline.ssh(name, "dpkg --audit; nft --version; systemctl is-active redis-server").stdout.endswith(
            "active\n"
        )
        assert DEAD in offline.ssh(name, "cat /etc/apt/sources.list").stdout
        owner = offline.ssh(name, "stat -c '%U %a' /var/lib/qaicl-packages; ls -A /var/lib/qaicl-staging").stdout
        assert owner == "root 755\n"
        pushed = offline.ssh(name, "ls /var/lib/qaicl-packages").stdout
        assert "redis-server_" in pushed
        assert "postgresql" not in pushed
    offline.ssh("vm2", "apt-get -q -y purge redis-tools redis-server redis-sentinel")
    again = operator.apply(*TAGS).expect(0)
    assert {event["host"] for event in again.events if event["kind"] == "step-done"} == {"vm2"}
    assert not [event for event in again.events if event["kind"] == "upload" and event["name"].endswith(".deb")]
    operator.plan(*TAGS).expect(0)
