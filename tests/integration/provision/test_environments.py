"""Environments on a machine: whole or not there, and one that stands on another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
import yaml
from pretend import write_wheel

from qaicl.provision.facts import Facts
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.operations.base import Action, Change, Command, Situation
from qaicl.provision.plan import parse_probes, probe_script
from qaicl.provision.playbook import shipped


def _sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, timeout=120)


def _plan(arguments: dict[str, str]) -> Change | None:
    args = msgspec.convert(arguments, OPERATIONS["venv"].arguments)
    script, keys = probe_script(OPERATIONS["venv"].probes(args))
    return OPERATIONS["venv"].plan(args, Situation(Facts(), parse_probes(_sh(script).stdout, keys)))


def _run(actions: Iterable[Action]) -> subprocess.CompletedProcess[str]:
    done = None
    for action in actions:
        assert isinstance(action, Command)
        done = _sh(action.script)
        if done.returncode:
            return done
    assert done is not None
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A big package and qaicl, each pinned in a file of its own."""
    directory = tmp_path_factory.mktemp("wheels")
    for listing, name in (("dependencies.txt", "big"), ("release.txt", "qaicl")):
        digest = hashlib.sha256(write_wheel(directory, name, "1.0").read_bytes()).hexdigest()
        (directory / listing).write_text(f"{name}==1.0 --hash=sha256:{digest}\n")
    return directory


def _arguments(path: Path, wheels: Path, requirements: str, **more: str) -> dict[str, str]:
    fixed = {"path": str(path), "wheels": str(wheels), "requirements": requirements, "digest": "d"}
    return fixed | {"python": sys.executable} | more


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """An environment with the big package."""
    path = tmp_path_factory.mktemp("dependencies") / "1"
    arguments = _arguments(path, wheels, "dependencies.txt")
    change = _plan(arguments)
    assert change is not None
    done = _run(change.actions)
    assert done.returncode == 0, done.stderr
    assert _plan(arguments) is None
    return path


def test_a_release_sees_the_packages_of_the_environment_it_stands_on(
    tmp_path: Path, wheels: Path, shared: Path
) -> None:
    release, link = tmp_path / "releases/1", tmp_path / "current"
    arguments = _arguments(release, wheels, "release.txt", base=str(shared), link=str(link))
    change = _plan(arguments)
    assert change is not None
    done = _run(change.actions)
    assert done.returncode == 0, done.stderr
    assert _plan(arguments) is None
    assert link.resolve() == release
    look = "import importlib.metadata as m; print(m.version('big'), m.version('qaicl'))"
    assert _sh(f'{link}/bin/python -c "{look}"').stdout == "1.0 1.0\n"
    assert not list(release.glob("lib/python*/site-packages/big*"))
    assert change.undo is not None
    _run(change.undo)
    assert not release.exists() and not link.exists() and shared.exists()


def test_what_is_half_built_is_not_used(tmp_path: Path, wheels: Path) -> None:
    release, link = tmp_path / "releases/1", tmp_path / "current"
    arguments = _arguments(release, wheels, "release.txt", base=str(tmp_path / "gone"), link=str(link))
    change = _plan(arguments)
    assert change is not None
    refused = _run(change.actions)
    assert refused.returncode != 0
    assert "of another Python" in refused.stderr
    assert not link.exists() and not (release / ".complete").exists()


def test_a_wheel_that_is_not_the_pinned_one_is_not_installed(tmp_path: Path, wheels: Path, shared: Path) -> None:
    (wheels / "wrong.txt").write_text(f"qaicl==1.0 --hash=sha256:{'0' * 64}\n")
    change = _plan(_arguments(tmp_path / "e", wheels, "wrong.txt", base=str(shared)))
    assert change is not None
    done = _run(change.actions)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "e/.complete").exists()


def test_the_release_that_was_in_use_before_is_kept(tmp_path: Path) -> None:
    """Also where it is older than another that was tried meanwhile."""
    link = tmp_path / "current"
    for number, name in enumerate(("old", "tried")):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / ".complete").write_text("d\n")
        os.utime(tmp_path / "releases" / name, (number, number))
    for name in ("tried", "old", "new"):
        (tmp_path / "releases" / name).mkdir(exist_ok=True)
        (tmp_path / "releases" / name / ".complete").write_text("d\n")
        change = _plan(_arguments(tmp_path / "releases" / name, tmp_path, "release.txt", link=str(link)))
        assert change is not None
        assert _run(change.actions).returncode == 0
        time.sleep(0.02)
    book = yaml.safe_load((shipped() / "python.yaml").read_text())
    (step,) = [entry["command"] for entry in book["steps"] if entry["name"] == "Old releases"]
    done = _sh(step["run"].replace("/opt/qaicl", str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "releases").iterdir()} == {"old", "new"}
