"""The inventory: which machines there are, how to reach them, and what each is for.

The file is YAML. It is checked against ``inventory.schema.json`` and for what a schema cannot say; every
complaint names the line. Secrets are only ever referred to (``file:PATH``, ``env:NAME`` or ``prompt``).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml

from qaicl.errors import InventoryError

ROLES = ("orchestrator", "standby", "node", "redis", "postgres")
DAEMON_USER = "qaicl"
"""Whom the playbooks make for the daemons: a system user without a shell."""


@dataclass(frozen=True)
class Host:
    """A machine."""

    name: str
    address: str
    """Its address inside the cluster's network."""
    ssh_address: str
    port: int
    user: str
    key: str
    host_key: str
    """``"ssh-ed25519 AAAA…"``; empty when none is pinned yet."""
    roles: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)

    def has(self, role: str) -> bool:
        """Whether the host has a role; ``orchestrator`` includes ``standby``."""
        return role in self.roles or (role == "orchestrator" and "standby" in self.roles)


@dataclass(frozen=True)
class Inventory:
    """The whole file."""

    path: Path
    cluster: str
    hosts: tuple[Host, ...]
    network: str
    model: str
    precision: str
    threads: int
    memory_max: str
    playbook: str
    public_ports: tuple[int, ...]
    connect_timeout: float
    secrets: Mapping[str, str]
    variables: Mapping[str, Any]
    packages: str = "mirror"
    """``mirror``: the machines have one; ``bundle``: they get the packages from here."""
    package_sources: tuple[str, ...] = ()
    """Where the bundle's packages come from, as lines of ``sources.list``; empty means this machine's own."""

    def with_role(self, role: str) -> tuple[Host, ...]:
        """The hosts of a role, in the file's order; the orchestrator comes before its standbys."""
        chosen = [host for host in self.hosts if host.has(role)]
        return tuple(sorted(chosen, key=lambda host: role not in host.roles))

    def limited(self, names: Iterable[str]) -> tuple[Host, ...]:
        """The named hosts, or all where no name is given.

        Raises:
            InventoryError: a name is not in the file.
        """
        wanted = list(names)
        known = [host.name for host in self.hosts]
        for name in wanted:
            if name not in known:
                raise InventoryError(
                    f"no host '{name}' in {self.path}", why=f"the hosts are {', '.join(known)}", fix="correct --limit"
                )
        return tuple(host for host in self.hosts if not wanted or host.name in wanted)


class _Document:
    """A YAML file as plain data, with the line of every value."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is None:
                raise self.error_at(1, "the file is empty")
            self._loader = yaml.SafeLoader("")
            self.data = self._convert(node, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self.error_at(line, error.problem or "not YAML") from error
        except yaml.YAMLError as error:
            raise self.error_at(1, str(error).splitlines()[0]) from error

    def error_at(self, line: int, why: str) -> InventoryError:
        return InventoryError(
            f"{self.path} is not a valid inventory", why=f"line {line}: {why}", fix=f"edit {self.path}, line {line}"
        )

    def error(self, where: Iterable[str | int], why: str) -> InventoryError:
        path = tuple(where)
        while path not in self.lines and path:
            path = path[:-1]
        return self.error_at(self.lines.get(path, 1), why)

    def _convert(self, node: yaml.Node, where: tuple[str | int, ...]) -> Any:
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(self._loader.construct_object(key_node, deep=True))
                if key in result:
                    raise self.error_at(key_node.start_mark.line + 1, f"'{key}' stands here for the second time")
                self.lines[(*where, key)] = key_node.start_mark.line + 1
                result[key] = self._convert(value_node, (*where, key))
            return result
        if isinstance(node, yaml.SequenceNode):
            return [self._convert(item, (*where, index)) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node, deep=True)
        except ValueError as error:  # a date that there is not
            raise self.error_at(node.start_mark.line + 1, str(error)) from error


def _reason(error: jsonschema.ValidationError) -> str:
    name = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "pattern" and error.absolute_path and error.absolute_path[0] == "secrets":
        return f"{name}: a secret is given by reference: file:PATH, env:NAME or prompt"  # the value is not repeated
    return f"{name}: {error.message}" if name else error.message


def load(path: Path) -> Inventory:
    """Read and check an inventory.

    Raises:
        InventoryError: the file is missing or wrong; ``why`` starts with the line number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InventoryError(
            f"there is no inventory {path}", why="the file does not exist", fix=f"run: qaicl provision init {path}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError(
            f"cannot read {path}", why=str(error), fix="make it a text file that you may read"
        ) from error
    document = _Document(path, text)
    schema = json.loads(resources.files("qaicl.provision").joinpath("inventory.schema.json").read_text("utf-8"))
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(document.data), key=lambda e: len(e.path))
    if errors:
        raise document.error(errors[-1].absolute_path, _reason(errors[-1]))
    return _build(document)


def _is_public_key(text: str) -> bool:
    kind, data = text.split()
    try:
        blob = base64.b64decode(data, validate=True)
    except binascii.Error:
        return False
    # The data begins with its kind once more (RFC 4253, 6.6), and more follows.
    end = 4 + int.from_bytes(blob[:4])
    return blob[4:end] == kind.encode() and len(blob) > end


def _build(document: _Document) -> Inventory:
    data = cast(dict[str, Any], document.data)
    try:
        network = ipaddress.ip_network(data.get("network", "10.0.0.0/24"))
    except ValueError as error:
        raise document.error(("network",), str(error)) from error
    if network.version != 4:
        raise document.error(
            ("network",), f"{network} is no IPv4 network; the cluster's own is one, and ssh_address may be of IPv6"
        )
    ssh = data.get("ssh", {})
    hosts: list[Host] = []
    for name, entry in data["hosts"].items():
        where = ("hosts", name)
        try:
            address = ipaddress.ip_address(entry["address"])
        except ValueError as error:
            raise document.error((*where, "address"), str(error)) from error
        if address not in network:
            raise document.error((*where, "address"), f"{address} is not in the network {network}")
        user = entry.get("user", ssh.get("user", "root"))
        if user == DAEMON_USER:
            at = (*where, "user") if "user" in entry else ("ssh", "user")
            raise document.error(at, f"{user} is the daemons' own user, who cannot log in; name another one")
        if any(other.address == str(address) for other in hosts):
            raise document.error((*where, "address"), f"{address} belongs to another host already")
        host_key = " ".join(entry.get("host_key", "").split()[:2])
        if host_key and not _is_public_key(host_key):
            why = f"{host_key} is not a public key; copy it whole from: ssh-keyscan -t ed25519 {address}"
            raise document.error((*where, "host_key"), why)
        hosts.append(
            Host(
                name=name,
                address=str(address),
                ssh_address=entry.get("ssh_address", str(address)),
                port=entry.get("port", ssh.get("port", 22)),
                user=user,
                key=entry.get("key", ssh.get("key", "~/.ssh/id_ed25519")),
                host_key=host_key,
                roles=tuple(entry["roles"]),
                labels=entry.get("labels", {}),
            )
        )
    orchestrators = [host for host in hosts if "orchestrator" in host.roles]
    if len(orchestrators) != 1:
        raise document.error(("hosts",), f"exactly one host has the role orchestrator, not {len(orchestrators)}")
    for role in ("node", "redis"):
        if not any(host.has(role) for host in hosts):
            raise document.error(("hosts",), f"no host has the role {role}")
    for host in hosts:
        if {"orchestrator", "standby"} <= set(host.roles):
            raise document.error(("hosts", host.name, "roles"), "a host is orchestrator or standby, not both")
    return Inventory(
        path=document.path,
        cluster=data["cluster"],
        hosts=tuple(hosts),
        network=str(network),
        model=data.get("model", "smollm2-135m"),
        precision=data.get("precision", "auto"),
        threads=data.get("threads", 0),
        memory_max=data.get("memory_max", "80%"),
        playbook=data.get("playbook", "site"),
        public_ports=tuple(data.get("public_ports", (80, 443))),
        connect_timeout=float(ssh.get("connect_timeout", 10.0)),
        secrets=data.get("secrets", {}),
        variables=data.get("variables", {}),
        packages=data.get("packages", "mirror"),
        package_sources=tuple(data.get("package_sources", ())),
    )


EXAMPLE = """\
# The machines of one cluster. Check with: qaicl provision plan
cluster: demo                  # also the name of the context that `apply` writes: qaicl --context demo ask "…"
network: 10.0.0.0/24           # the private network between the machines
model: smollm2-135m            # qaicl model list
precision: auto                # auto, float32, bfloat16, int8 or int4
threads: 0                     # compute threads a node; 0 means one thread a core
memory_max: 80%                # of a machine's memory, for a daemon

ssh:                           # for all hosts; a host can say otherwise
  user: root                   # or a user who may use sudo
  key: ~/.ssh/id_ed25519
  port: 22

packages: mirror               # mirror: the machines reach one; bundle: you fetch the packages and push them
# package_sources:             # with `bundle`, where you fetch them; needed if your machine runs another release
#   - deb http://mirror.example/debian bookworm main
#   - deb http://mirror.example/debian bookworm-updates main
#   - deb http://mirror.example/debian-security bookworm-security main

secrets: {}                    # only by reference: file:PATH, env:NAME or prompt
  # sudo_password: prompt      # for a user whose sudo asks

hosts:
  vm-1:
    address: 10.0.0.10
    # host_key: ssh-ed25519 AAAA…   # pin it: ssh-keyscan -t ed25519 10.0.0.10; without it you are asked once
    roles: [orchestrator, redis, postgres]
  vm-2:
    address: 10.0.0.20
    roles: [standby, node, redis]
  vm-3:
    address: 10.0.0.30
    roles: [node, redis]
"""
