"""The operator's context: endpoints, a client key of its own, and nobody who is no longer there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qaicl.errors import WireError
from qaicl.provision import inventory
from qaicl.provision.context import write_context
from qaicl.provision.identity import CLIENT, Keyring, allowed, daemons
from qaicl.wire import endpoints


@pytest.fixture
def machines(tmp_path: Path) -> inventory.Inventory:
    path = tmp_path / "cluster.yaml"
    path.write_text(inventory.EXAMPLE)
    return inventory.load(path)


@pytest.fixture
def keyring(tmp_path: Path, machines: inventory.Inventory) -> Keyring:
    ring = Keyring(tmp_path / "keys")
    ring.ensure([CLIENT, *(daemon.name for daemon in daemons(machines))])
    return ring


def test_the_context_names_the_orchestrators_and_holds_the_clients_key(
    tmp_path: Path, machines: inventory.Inventory, keyring: Keyring
) -> None:
    context = tmp_path / "context"
    assert write_context(context, machines, keyring)
    assert [(entry.name, entry.endpoint) for entry in endpoints.read(context)] == [
        ("vm-1-orchestrator", "tcp://10.0.0.10:5000"),
        ("vm-2-orchestrator", "tcp://10.0.0.20:5000"),
    ]
    for entry in endpoints.read(context):
        assert entry.public_key == keyring.public_key(entry.name)
    secret = context / "keys" / "client.key_secret"
    assert secret.read_text() == keyring.secret(CLIENT)
    assert {path.name for path in context.rglob("*.key_secret")} == {"client.key_secret"}
    for path in context.rglob("*"):
        if path.is_file() and "secret" in path.name:
            assert path.stat().st_mode & 0o777 == 0o600


def test_writing_it_again_changes_nothing(tmp_path: Path, machines: inventory.Inventory, keyring: Keyring) -> None:
    context = tmp_path / "context"
    write_context(context, machines, keyring)
    keyring.ensure([CLIENT, *(daemon.name for daemon in daemons(machines))])
    assert not write_context(context, machines, keyring)


def test_an_orchestrator_that_is_gone_is_no_longer_trusted(
    tmp_path: Path, machines: inventory.Inventory, keyring: Keyring
) -> None:
    context = tmp_path / "context"
    write_context(context, machines, keyring)
    fewer = dataclasses.replace(machines, hosts=(machines.hosts[0], machines.hosts[2]))
    assert write_context(context, fewer, keyring)
    assert [entry.name for entry in endpoints.read(context)] == ["vm-1-orchestrator"]
    assert [path.name for path in (context / "keys/allowed/orchestrator").iterdir()] == ["vm-1-orchestrator.key"]


def test_other_settings_in_the_context_stay(tmp_path: Path, machines: inventory.Inventory, keyring: Keyring) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "config.toml").write_text("# mine\n")
    write_context(context, machines, keyring)
    assert (context / "config.toml").read_text() == "# mine\n"


def test_every_daemon_lets_in_every_other_and_the_operator(machines: inventory.Inventory, keyring: Keyring) -> None:
    entries = [(entry["role"], entry["name"]) for entry in allowed(machines, keyring)]
    assert entries == [
        ("orchestrator", "vm-1-orchestrator"),
        ("orchestrator", "vm-2-orchestrator"),
        ("node", "vm-2"),
        ("node", "vm-3"),
        ("client", "client"),
    ]
    assert all("secret-key" not in entry["text"] for entry in allowed(machines, keyring))


def test_keys_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys")
    ring.ensure(["a"])
    first = ring.secret("a")
    ring.ensure(["a", "b"])
    assert ring.secret("a") == first
    assert ring.secret_path("a").stat().st_mode & 0o777 == 0o600
    assert ring.directory.stat().st_mode & 0o777 == 0o700


def test_keys_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("in the way")
    with pytest.raises(WireError, match="cannot write"):
        Keyring(tmp_path / "keys").ensure(["a"])
