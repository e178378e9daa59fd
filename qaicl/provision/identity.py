"""Who is who: names and keys of the daemons and of the operator, made on the operator's machine.

All key pairs lie in one 0700 directory here. A machine gets its own secrets and everybody's public keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qaicl.provision.inventory import Host, Inventory
from qaicl.wire.keys import make_keypair

ORCHESTRATOR_PORT = 5000
NODE_PORT = 5001
CLIENT = "client"


@dataclass(frozen=True)
class Daemon:
    """A daemon of a host."""

    name: str
    role: str
    host: str
    address: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"tcp://{self.address}:{self.port}"


def daemons(inventory: Inventory) -> list[Daemon]:
    """All daemons; the first orchestrator comes first."""
    return [
        *(
            Daemon(orchestrator_name(h), "orchestrator", h.name, h.address, ORCHESTRATOR_PORT)
            for h in inventory.with_role("orchestrator")
        ),
        *(Daemon(h.name, "node", h.name, h.address, NODE_PORT) for h in inventory.with_role("node")),
    ]


def orchestrator_name(host: Host) -> str:
    """A node has its host's name; the orchestrator beside it needs another."""
    return f"{host.name}-orchestrator"


@dataclass(frozen=True)
class Keyring:
    """The key pairs of one cluster."""

    directory: Path

    def ensure(self, names: list[str]) -> None:
        """Make the pairs that are missing; present ones stay.

        Raises:
            WireError: the directory cannot be written to.
        """
        for name in names:
            if not self.secret_path(name).exists() or not self.public_path(name).exists():
                make_keypair(self.directory, name)

    def secret_path(self, name: str) -> Path:
        return self.directory / f"{name}.key_secret"

    def public_path(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def secret(self, name: str) -> str:
        """The secret certificate's text."""
        return self.secret_path(name).read_text(encoding="ascii")

    def public(self, name: str) -> str:
        """The public certificate's text."""
        return self.public_path(name).read_text(encoding="ascii")

    def public_key(self, name: str) -> str:
        """The public key alone, in Z85."""
        import zmq.auth

        public, _ = zmq.auth.load_certificate(self.public_path(name))
        return public.decode("ascii")


def allowed(inventory: Inventory, keyring: Keyring) -> Iterator[dict[str, str]]:
    """The public certificates that every daemon accepts: role, name, text."""
    for daemon in daemons(inventory):
        yield {"role": daemon.role, "name": daemon.name, "text": keyring.public(daemon.name)}
    yield {"role": "client", "name": CLIENT, "text": keyring.public(CLIENT)}
