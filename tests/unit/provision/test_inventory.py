"""The inventory: what is right is read, what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaicl.errors import InventoryError
from qaicl.provision import inventory

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIO8B0SFkYSIkhrS0V2XmCOgmbPGlJHqEvYkPp0HHvTqG"

GOOD = f"""\
cluster: demo
network: 10.0.0.0/24
ssh: {{user: admin, key: /k}}
hosts:
  a:
    address: 10.0.0.10
    roles: [orchestrator, redis]
  b:
    address: 10.0.0.20
    port: 2222
    host_key: ssh-ed25519 {KEY} comment
    roles: [standby, node]
"""


def _load(tmp_path: Path, text: str) -> inventory.Inventory:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return inventory.load(path)


def test_hosts_take_what_they_do_not_say_from_ssh(tmp_path: Path) -> None:
    found = _load(tmp_path, GOOD)
    first, second = found.hosts
    assert (first.user, first.key, first.port, first.host_key) == ("admin", "/k", 22, "")
    assert (second.port, second.host_key) == (2222, f"ssh-ed25519 {KEY}")
    assert [host.name for host in found.with_role("orchestrator")] == ["a", "b"]
    assert found.playbook == "site"


def test_packages_come_from_a_mirror_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert _load(tmp_path, GOOD).packages == "mirror"
    lines = ["deb http://m.example/debian bookworm main contrib", "deb [signed-by=/k.gpg] http://m.example/ ./"]
    found = _load(tmp_path, GOOD + "packages: bundle\npackage_sources:\n" + "".join(f"  - {line}\n" for line in lines))
    assert (found.packages, found.package_sources) == ("bundle", tuple(lines))


def test_the_example_is_valid(tmp_path: Path) -> None:
    assert len(_load(tmp_path, inventory.EXAMPLE).hosts) == 3


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("port: 2222", "port: 70000", 10, "70000"),
        ("port: 2222", "prt: 22", 8, "prt"),
        ("[standby, node]", "[standby, worker]", 12, "worker"),
        ("[standby, node]", "[standby]", 4, "role node"),
        ("[standby, node]", "[orchestrator, node]", 4, "exactly one host"),
        ("10.0.0.20", "10.0.0.10", 9, "another host"),
        ("10.0.0.20", "10.1.0.20", 9, "not in the network"),
        ("10.0.0.20", "ten", 9, "ten"),
        ("  b:", "  a:", 8, "second time"),
        ("user: admin", "user: qaicl", 3, "daemons' own user"),
        ("port: 2222", "user: qaicl", 10, "daemons' own user"),
        ("10.0.0.0/24", "fd00::/64", 2, "no IPv4 network"),
        ("hosts:", "hosts: [", 4, ""),
        ("cluster: demo", "cluster: Demo!", 1, "Demo!"),
        ("cluster: demo\n", "", 1, "cluster"),
        ("cluster: demo", "cluster: demo\npackages: none", 2, "none"),
        ("cluster: demo", "cluster: demo\npackage_sources:\n  - http://m.example", 3, "http://m.example"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(InventoryError) as caught:
        _load(tmp_path, GOOD.replace(old, new))
    assert words in caught.value.why
    assert caught.value.exit_code == 2
    if words:
        assert f"line {line}:" in caught.value.why


def test_a_secret_in_clear_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(InventoryError) as caught:
        _load(tmp_path, GOOD + "secrets:\n  sudo_password: hunter22\n")
    assert "line 14" in caught.value.why
    assert "by reference" in caught.value.why
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"- a\n", b"cluster: \x00\n"])
def test_what_is_no_inventory_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(content)
    with pytest.raises(InventoryError) as caught:
        inventory.load(path)
    assert str(path) in str(caught.value)


def test_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InventoryError) as caught:
        inventory.load(tmp_path / "none.yaml")
    assert "provision init" in caught.value.fix


def test_limit_knows_only_hosts_that_are_there(tmp_path: Path) -> None:
    found = _load(tmp_path, GOOD)
    assert [host.name for host in found.limited(["b"])] == ["b"]
    with pytest.raises(InventoryError, match="no host 'c'"):
        found.limited(["c"])
