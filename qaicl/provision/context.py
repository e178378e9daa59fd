"""The operator's side: a context with the cluster's endpoints and a client key of its own."""

from __future__ import annotations

from pathlib import Path

from qaicl.provision.identity import CLIENT, Keyring, daemons
from qaicl.provision.inventory import Inventory
from qaicl.provision.secrets import write_private
from qaicl.wire.endpoints import Orchestrator, write


def write_context(directory: Path, inventory: Inventory, keyring: Keyring) -> bool:
    """Write endpoints, the client's key and the orchestrators' public keys.

    Args:
        directory: the context's.

    Returns:
        Whether something changed.
    """
    orchestrators = [
        Orchestrator(daemon.name, daemon.endpoint, keyring.public_key(daemon.name))
        for daemon in daemons(inventory)
        if daemon.role == "orchestrator"
    ]
    wanted = {
        directory / "keys" / f"{CLIENT}.key_secret": keyring.secret(CLIENT),
        directory / "keys" / f"{CLIENT}.key": keyring.public(CLIENT),
        **{
            directory / "keys" / "allowed" / "orchestrator" / f"{entry.name}.key": keyring.public(entry.name)
            for entry in orchestrators
        },
    }
    changed = False
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="ascii") != text:
            write_private(path, text.encode("ascii"))
            changed = True
    allowed = directory / "keys" / "allowed" / "orchestrator"
    for path in allowed.glob("*.key"):
        if path not in wanted:
            path.unlink()
            changed = True
    before = (directory / "endpoints.toml").read_bytes() if (directory / "endpoints.toml").exists() else b""
    write(directory, orchestrators)
    return changed or (directory / "endpoints.toml").read_bytes() != before
