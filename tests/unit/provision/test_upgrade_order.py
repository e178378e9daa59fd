"""The order of an upgrade: whoever leads the cluster goes last, so that the leader moves once at most."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from qaicl.errors import InventoryError, ProvisionError
from qaicl.provision import inventory, upgrade
from qaicl.provision.provisioning import Choice


class Upgrading:
    """An upgrade whose machines are only noted down."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "cluster.yaml"
        path.write_text(inventory.EXAMPLE)
        self.inventory = inventory.load(path)
        self.context_directory = tmp_path
        self.leader = "vm-1-orchestrator"
        self.visited: list[str] = []
        self.same: set[str] = set()
        self.broken = ""
        monkeypatch.setattr(upgrade._Cluster, "status", lambda cluster: {"leader": self.leader, "nodes": []})
        monkeypatch.setattr(upgrade, "_one", self._one)

    def _one(self, provisioning: Any, cluster: Any, host: inventory.Host) -> bool:
        self.visited.append(host.name)
        if host.name == self.broken:
            raise ProvisionError(f"{host.name} is back")
        return host.name not in self.same

    def __call__(self, *limit: str) -> list[str]:
        return upgrade.run(self, Choice(limit))  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upgrading:
    return Upgrading(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("leader", "order"),
    [
        ("vm-1-orchestrator", ["vm-3", "vm-2", "vm-1"]),
        ("vm-2-orchestrator", ["vm-3", "vm-1", "vm-2"]),
        (None, ["vm-3", "vm-1", "vm-2"]),
    ],
)
def test_nodes_come_first_then_standbys_and_the_leader_last(run: Upgrading, leader: str, order: list[str]) -> None:
    run.leader = leader
    assert run() == run.visited == order


def test_machines_that_are_up_to_date_are_not_among_the_changed(run: Upgrading) -> None:
    run.same = {"vm-2"}
    assert run() == ["vm-3", "vm-1"]


def test_after_one_that_fails_no_other_is_touched(run: Upgrading) -> None:
    run.broken = "vm-2"
    with pytest.raises(ProvisionError, match="vm-2 is back"):
        run()
    assert run.visited == ["vm-3", "vm-2"]


def test_limit_keeps_the_order_and_knows_the_names(run: Upgrading) -> None:
    assert run("vm-1", "vm-3") == ["vm-3", "vm-1"]
    with pytest.raises(InventoryError):
        run("vm-9")


def test_a_standby_of_the_role_alone_comes_after_the_nodes(run: Upgrading) -> None:
    first, second, third = run.inventory.hosts
    run.inventory = dataclasses.replace(
        run.inventory, hosts=(first, dataclasses.replace(second, roles=("standby",)), third)
    )
    assert run() == ["vm-3", "vm-2", "vm-1"]
