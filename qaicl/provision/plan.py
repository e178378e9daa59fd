"""The plan: what each host lacks. Pure, apart from reading and writing its file.

Probes for all steps of a host travel together, so that a host that is as it should be costs two round trips.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qaicl.errors import PlaybookError, StalePlanError, UsageError
from qaicl.provision.facts import Facts
from qaicl.provision.operations.base import (
    PACKAGE_INDEX,
    Action,
    BundleFile,
    Change,
    Command,
    Found,
    Install,
    Probe,
    Reboot,
    Situation,
)
from qaicl.provision.playbook import Skipped, Step
from qaicl.provision.secrets import write_private

VERSION = 1


@dataclass(frozen=True)
class PlannedStep:
    """A step with what it would do; ``change`` is None where nothing is to be done."""

    step: Step | Skipped
    change: Change | None

    @property
    def status(self) -> str:
        if isinstance(self.step, Skipped):
            return "skipped"
        return "change" if self.change else "ok"


@dataclass(frozen=True)
class HostPlan:
    """One host's part."""

    host: str
    facts: Facts
    steps: tuple[PlannedStep, ...]

    @property
    def changes(self) -> tuple[PlannedStep, ...]:
        return tuple(entry for entry in self.steps if entry.change is not None)


def probe_script(probes: Iterable[Probe]) -> tuple[str, list[str]]:
    """One script that answers all probes, and the keys in the order of its lines."""
    unique = {probe.key: probe.script for probe in probes}
    keys = list(unique)
    parts = [
        f"o=$( (\n{script}\n) </dev/null 2>/dev/null ); s=$?; printf '%s ' $s; printf '%s' \"$o\" | base64 -w0; echo"
        for script in unique.values()
    ]
    return "\n".join(["export LC_ALL=C", *parts]) + "\n", keys


def parse_probes(output: str, keys: Sequence[str]) -> dict[str, Found]:
    """The answers by key.

    Raises:
        PlaybookError: the script did not run to its end.
    """
    lines = output.splitlines()
    if len(lines) != len(keys):
        raise PlaybookError(
            "the machine did not answer every question",
            why=f"{len(lines)} answers to {len(keys)} questions",
            fix="is every guard of the playbooks whole as a shell script?",
        )
    found = {}
    for key, line in zip(keys, lines, strict=True):
        status, _, text = line.partition(" ")
        found[key] = Found(int(status), base64.b64decode(text).decode("utf-8", "replace"))
    return found


def step_probes(steps: Iterable[Step | Skipped]) -> list[Probe]:
    """Every probe that the steps need."""
    return [probe for step in steps if isinstance(step, Step) for probe in step.operation.probes(step.arguments)]


def plan_host(
    host: str,
    facts: Facts,
    steps: Iterable[Step | Skipped],
    found: Mapping[str, Found],
    packages: tuple[BundleFile, ...] = (),
) -> HostPlan:
    """What is to be done on a host, in order; each step knows what those before it will change."""
    touched: set[str] = set()
    planned = []
    for step in steps:
        change = None
        if isinstance(step, Step):
            change = step.operation.plan(step.arguments, Situation(facts, found, frozenset(touched), packages))
            if change is not None:
                touched.update(change.touches)
        planned.append(PlannedStep(step, change))
    return HostPlan(host, facts, tuple(planned))


# --- the plan as a file ----------------------------------------------------------------------------


class SavedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A change, without its secrets."""

    id: str
    name: str
    operation: str
    why: str
    reason: str
    diff: str
    undo: list[str]
    """Scripts; empty means irreversible."""
    digest: str


class SavedHost(msgspec.Struct, frozen=True):
    """The changes of one host, and the steps that do not apply."""

    name: str
    changes: list[SavedStep]
    unchanged: int
    skipped: list[dict[str, str]]


class SavedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What ``plan --save`` writes and ``apply PLAN`` carries out."""

    version: int = VERSION
    cluster: str
    inventory: str
    playbook: str
    limit: list[str]
    tags: list[str]
    hosts: list[SavedHost]
    digest: str = ""

    def computed_digest(self) -> str:
        """sha256 of everything but the digest."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, digest=""))).hexdigest()


def change_digest(change: Change, key: bytes) -> str:
    """A digest that differs where the machine would be treated differently.

    Args:
        key: what commands read from stdin may be a password that somebody chose; without the key nobody can try
            passwords on a plan that they were shown.
    """
    total = hmac.new(key, digestmod=hashlib.sha256)
    for action in change.actions:
        total.update(_action_bytes(action))
    return total.hexdigest()


def _action_bytes(action: Action) -> bytes:
    if isinstance(action, Command):
        return b"command\0" + action.script.encode() + b"\0" + (action.stdin or b"")
    if isinstance(action, Reboot):
        return b"reboot\0" + action.marker.encode()
    if isinstance(action, Install):
        # The index names every package with its hash.
        index = [file.sha256 for file in action.files if file.name == PACKAGE_INDEX]
        return f"install\0{' '.join(action.names)}\0{' '.join(index)}".encode()
    listing = " ".join(f"{file.name}:{file.sha256}" for file in action.files)
    return f"upload\0{action.destination}\0{action.owner}:{action.group}\0{listing}".encode()


def saved_host(plan: HostPlan, redact: Callable[[str], str], key: bytes) -> SavedHost:
    """A host's plan without secrets; ``key`` as in :func:`change_digest`."""
    changes = []
    for entry in plan.changes:
        step, change = entry.step, entry.change
        assert isinstance(step, Step) and change is not None
        changes.append(
            SavedStep(
                id=step.id,
                name=step.name,
                operation=step.operation.name,
                why=redact(step.why),
                reason=redact(change.reason),
                diff=redact(change.diff),
                undo=[redact(command.script) for command in change.undo or ()],
                digest=change_digest(change, key),
            )
        )
    skipped = [
        {"id": entry.step.id, "reason": redact(entry.step.reason)}
        for entry in plan.steps
        if isinstance(entry.step, Skipped)
    ]
    return SavedHost(plan.host, changes, sum(entry.status == "ok" for entry in plan.steps), skipped)


def write(path: Path, plan: SavedPlan) -> None:
    """Write a plan for its owner's eyes only."""
    write_private(path, msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")


def read(path: Path) -> SavedPlan:
    """Read a plan back.

    Raises:
        UsageError: there is no such file, or it is no plan.
        StalePlanError: somebody edited it.
    """
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=SavedPlan)
    except OSError as error:
        raise UsageError(
            f"cannot read the plan {path}",
            why=error.strerror or str(error),
            fix="make one: qaicl provision plan --save",
        ) from error
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{path} is not a plan", why=str(error), fix="make one: qaicl provision plan --save"
        ) from error
    if plan.digest != plan.computed_digest():
        raise StalePlanError(
            f"the plan {path} was edited", why="its content does not fit its hash", fix="make a new plan"
        )
    return plan


def check_against(saved: SavedPlan, now: Sequence[HostPlan], key: bytes) -> None:
    """Make sure that carrying out ``now`` does nothing that ``saved`` does not say.

    What is done already (an earlier, interrupted run of the same plan) may be missing in ``now``.

    Args:
        key: the one with which the plan was saved.

    Raises:
        StalePlanError: something else would be done.
    """
    allowed: dict[str, dict[str, str]] = {
        host.name: {change.id: change.digest for change in host.changes} for host in saved.hosts
    }
    for plan in now:
        for entry in plan.changes:
            change: Any = entry.change
            if allowed.get(plan.host, {}).get(entry.step.id) != change_digest(change, key):
                raise StalePlanError(
                    f"{plan.host} is no longer as it was when the plan was made",
                    why=f"step {entry.step.id} would do something that the plan does not say",
                    fix="look at a new one: qaicl provision plan",
                )
