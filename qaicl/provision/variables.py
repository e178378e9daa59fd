"""The names that playbooks and templates may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qaicl.provision.bundle import Bundle
from qaicl.provision.facts import Facts
from qaicl.provision.identity import NODE_PORT, ORCHESTRATOR_PORT, Keyring, allowed, daemons
from qaicl.provision.inventory import Host, Inventory
from qaicl.provision.operations.base import BundleFile
from qaicl.provision.secrets import SecretStore


class SecretView(Mapping[str, str]):
    """``secrets.NAME`` in a template; looked up when it is used, so that a run asks only for what it needs."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    def __getitem__(self, name: str) -> str:
        return self._store.get(name)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(frozen=True)
class Sources:
    """Everything that variables are made from, the same for all hosts."""

    inventory: Inventory
    bundle: Bundle
    model_files: list[BundleFile]
    secrets: SecretStore
    keyring: Keyring
    packages: tuple[BundleFile, ...] = ()
    """The distribution's packages, where the machines do not use a mirror."""


def variables(sources: Sources, host: Host, facts: Facts) -> dict[str, Any]:
    """The variables for one host; documented in docs/provision.md."""
    inventory, bundle = sources.inventory, sources.bundle
    redis = inventory.with_role("redis")
    return {
        **inventory.variables,
        "cluster": inventory.cluster,
        "network": inventory.network,
        "model": inventory.model,
        "precision": inventory.precision,
        "threads": inventory.threads or facts.cpus,
        "memory_max": inventory.memory_max,
        "packages": inventory.packages,
        "public_ports": list(inventory.public_ports),
        "orchestrator_port": ORCHESTRATOR_PORT,
        "node_port": NODE_PORT,
        "host": host,
        "hosts": list(inventory.hosts),
        "facts": facts,
        "redis_hosts": list(redis),
        "postgres_hosts": list(inventory.with_role("postgres")),
        "daemons": [daemon for daemon in daemons(inventory) if daemon.host == host.name],
        "orchestrators": [
            {"name": d.name, "endpoint": d.endpoint, "public_key": sources.keyring.public_key(d.name)}
            for d in daemons(inventory)
            if d.role == "orchestrator"
        ],
        "allowed_keys": list(allowed(inventory, sources.keyring)),
        "keyring": sources.keyring,
        "secrets": SecretView(sources.secrets),
        "release": bundle.manifest.release,
        "release_digest": bundle.manifest.digest,
        "dependencies_digest": bundle.manifest.dependencies,
        "wheels": bundle.wheels,
        "model_files": sources.model_files,
    }
