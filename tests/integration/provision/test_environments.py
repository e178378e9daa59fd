"""Environments on a machine: whole or not there, and one that stands on another."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from pretend import write_wheel

from qaicl.provision.facts import Facts
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.operations.base import Action, Change, Command, Situation
from qaicl.provision.plan import parse_probes, probe_script


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


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    for listing, name in (("dependencies.txt", "big"), ("release.txt", "qaicl")):
        wheel = write_wheel(directory, name, "1.0")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (directory / listing).write_text(f"{name}==1.0 --hash=sha256:{digest}\n")
    return directory


def test_a_release_sees_the_packages_of_the_environment_it_stands_on(tmp_path: Path, wheels: Path) -> None:
    shared, release, link = tmp_path / "dependencies/1", tmp_path / "releases/1", tmp_path / "current"
    common = {"wheels": str(wheels), "python": sys.executable}
    base = common | {"path": str(shared), "requirements": "dependencies.txt", "digest": "b"}
    own = common | {"path": str(release), "requirements": "release.txt", "digest": "r", "link": str(link)}
    own["base"] = str(shared)
    change = _plan(own)
    assert change is not None
    refused = _run(change.actions)
    assert refused.returncode != 0
    assert "of another Python" in refused.stderr
    assert not link.exists()  # what is half built is not used
    for arguments in (base, own):
        change = _plan(arguments)
        assert change is not None
        done = _run(change.actions)
        assert done.returncode == 0, done.stderr
        assert _plan(arguments) is None
    assert link.resolve() == release
    look = "import importlib.metadata as m; print(m.version('big'), m.version('qaicl'))"
    assert _sh(f'{link}/bin/python -c "{look}"').stdout == "1.0 1.0\n"
    assert not list(release.glob("lib/python*/site-packages/big*"))
    assert change is not None and change.undo is not None
    _run(change.undo)
    assert not release.exists() and not link.exists() and shared.exists()


def test_a_wheel_that_is_not_the_pinned_one_is_not_installed(tmp_path: Path, wheels: Path) -> None:
    (wheels / "dependencies.txt").write_text(f"big==1.0 --hash=sha256:{'0' * 64}\n")
    arguments = {"path": str(tmp_path / "e"), "requirements": "dependencies.txt", "digest": "b"}
    change = _plan(arguments | {"wheels": str(wheels), "python": sys.executable})
    assert change is not None
    done = _run(change.actions)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "e/.complete").exists()
