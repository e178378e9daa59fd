"""What every operation is made of: probes, actions, changes. All of it plain data."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import msgspec

from qaicl.provision.facts import Facts

STATE = "/var/lib/qaicl-provision"
"""Where a host keeps what provisioning must remember there; root's, 0700."""

PACKAGE_INDEX = "Packages"
"""The index of a flat apt repository."""

quote = shlex.quote


@dataclass(frozen=True)
class Probe:
    """A question to a host that changes nothing there.

    Args:
        key: names the question; equal keys are asked once.
        script: POSIX shell whose exit status and stdout are the answer.
    """

    key: str
    script: str


class Found(msgspec.Struct, frozen=True):
    """A probe's answer."""

    status: int
    stdout: str = ""


@dataclass(frozen=True)
class Command:
    """A shell script to run as root.

    Args:
        script: never holds a secret.
        stdin: what the script reads; this may be secret.
        timeout: seconds of silence after which it counts as hung.
    """

    script: str
    stdin: bytes | None = None
    timeout: float = 900.0


class BundleFile(msgspec.Struct, frozen=True):
    """One file of the bundle; ``source`` is its path on the operator's machine, ``size`` in bytes."""

    name: str
    size: int
    sha256: str
    source: str = ""


@dataclass(frozen=True)
class Upload:
    """Files to push into a directory."""

    destination: str
    files: tuple[BundleFile, ...]
    all_files: tuple[BundleFile, ...]
    marker: str
    owner: str
    group: str


@dataclass(frozen=True)
class Reboot:
    """Restart the machine and wait until it is back; ``timeout`` in seconds."""

    timeout: float
    marker: str = ""


@dataclass(frozen=True)
class Install:
    """Install packages from the bundle; ``files`` are its index and its packages."""

    names: tuple[str, ...]
    files: tuple[BundleFile, ...]


Action = Command | Upload | Reboot | Install


@dataclass(frozen=True)
class Change:
    """What an operation would do.

    Args:
        reason: why, for the person who reads the plan.
        undo: what takes it back; None means irreversible.
        diff: what changes, as text.
        touches: paths and ``package:NAME``, ``service:NAME`` that later steps may depend on.
    """

    reason: str
    actions: tuple[Action, ...]
    undo: tuple[Command, ...] | None = None
    diff: str = ""
    touches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Situation:
    """What an operation may know when it plans."""

    facts: Facts
    found: Mapping[str, Found]
    touched: AbstractSet[str] = field(default_factory=frozenset)
    """What earlier steps of the same plan will have changed."""
    packages: tuple[BundleFile, ...] = ()
    """The bundle's packages and their index; empty where the machines use a mirror."""


@dataclass(frozen=True)
class Operation:
    """A kind of step: its arguments, what it asks, and the pure function that plans."""

    name: str
    arguments: type[msgspec.Struct]
    probes: Callable[[Any], tuple[Probe, ...]]
    plan: Callable[[Any, Situation], Change | None]


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every operation's arguments."""


def unified(before: str, after: str, name: str) -> str:
    """A unified diff of two texts."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name} (now)", f"{name} (wanted)", lineterm="", n=2
    )
    return "\n".join(lines)


def guard(key: str, script: str) -> Probe:
    """A probe that only asks for an exit status."""
    return Probe(f"guard:{key}", f"{{ {script}\n}} >/dev/null")
