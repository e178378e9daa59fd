"""Every operation, by fixtures: one JSON file a case holds arguments, facts, findings and the expected change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qaicl.provision.facts import Facts
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.operations.base import BundleFile, Change, Command, Found, Install, Reboot, Situation

CASES = sorted((Path(__file__).parent / "fixtures").glob("*.json"))


def _plain(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    actions: list[dict[str, Any]] = []
    for action in change.actions:
        if isinstance(action, Command):
            entry = {"run": action.script}
            if action.stdin is not None:
                entry["stdin"] = action.stdin.decode()
            actions.append(entry)
        elif isinstance(action, Reboot):
            actions.append({"reboot": action.timeout, "marker": action.marker})
        elif isinstance(action, Install):
            files = [f"{file.name} {file.sha256}" for file in action.files]
            actions.append({"install": list(action.names), "from": files})
        else:
            actions.append({"upload": [file.name for file in action.files], "to": action.destination})
    return {
        "reason": change.reason,
        "actions": actions,
        "undo": "irreversible" if change.undo is None else [command.script for command in change.undo],
        "diff": change.diff,
        "touches": list(change.touches),
    }


def _change(case: dict[str, Any]) -> Change | None:
    operation = OPERATIONS[case["operation"]]
    arguments = msgspec.convert(case["arguments"], operation.arguments)
    found = msgspec.convert(case.get("found", {}), dict[str, Found])
    assert {probe.key for probe in operation.probes(arguments)} == set(found), "the case answers what is asked"
    facts = msgspec.convert(case.get("facts", {}), Facts)
    packages = msgspec.convert(case.get("packages", []), tuple[BundleFile, ...])
    return operation.plan(arguments, Situation(facts, found, frozenset(case.get("touched", [])), packages))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_operation_plans_what_the_case_says(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    assert _plain(_change(case)) == case["expected"]


def test_every_operation_has_a_case_with_a_change_and_one_without() -> None:
    seen: dict[str, set[bool]] = {name: set() for name in OPERATIONS}
    for path in CASES:
        case = json.loads(path.read_text(encoding="utf-8"))
        seen[case["operation"]].add(case["expected"] is None)
    assert seen == {name: {True, False} for name in OPERATIONS}
