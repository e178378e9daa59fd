"""A machine that upgrades itself when provisioning begins."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from qaicl.provision.operations.package import APT, FINISH, WAITING

pytestmark = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("dpkg"), reason="needs dpkg and root")


@pytest.fixture
def dpkg(tmp_path: Path) -> dict[str, str]:
    """An environment in which dpkg has a database of its own, with nothing in it."""
    for name in ("info", "updates", "triggers"):
        (tmp_path / name).mkdir()
    for name in ("status", "available"):
        (tmp_path / name).touch()
    return dict(os.environ) | {"DPKG_ADMINDIR": str(tmp_path)}


def _start(env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(["sh", "-ec", f"{FINISH}echo finished"], env=env, stdout=-1, stderr=-1, text=True)


def _until_it_sleeps(waiting: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while True:
        assert waiting.poll() is None and time.monotonic() < until
        with contextlib.suppress(psutil.NoSuchProcess):  # what it runs before comes and goes
            if "sleep" in [child.name() for child in psutil.Process(waiting.pid).children()]:
                return


def test_it_waits_for_whoever_installs_something_now(dpkg: dict[str, str]) -> None:
    with (Path(dpkg["DPKG_ADMINDIR"]) / "lock-frontend").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        waiting = _start(dpkg)
        _until_it_sleeps(waiting)
    assert waiting.communicate(timeout=30) == ("finished\n", "")


def test_another_trouble_is_told_at_once(dpkg: dict[str, str]) -> None:
    (Path(dpkg["DPKG_ADMINDIR"]) / "status").write_text("this is no database\n")
    out, err = (ended := _start(dpkg)).communicate(timeout=30)
    assert (out, ended.returncode) == ("", 1)
    assert "dpkg: error" in err


# --- the locks that apt does not wait for --------------------------------------------------------------------


@pytest.fixture
def apt(tmp_path: Path) -> dict[str, str]:
    """An environment in which apt has places of its own, without a source."""
    for name in (
        "etc/sources.list.d",
        "etc/apt.conf.d",
        "etc/preferences.d",
        "lists/partial",
        "cache/archives/partial",
    ):
        (tmp_path / name).mkdir(parents=True)
    for name in ("status", "etc/sources.list"):
        (tmp_path / name).touch()
    places = {"State": "", "State::lists": "lists", "State::status": "status", "Etc": "etc", "Cache": "cache"}
    text = "".join(f'Dir::{name} "{tmp_path / place}";\n' for name, place in places.items())
    (tmp_path / "apt.conf").write_text(text)
    return dict(os.environ) | {"APT_CONFIG": str(tmp_path / "apt.conf")}


def _apt(env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    script = f"{WAITING}waiting env {APT} {' '.join(words)}; echo finished"
    return subprocess.Popen(["sh", "-ec", script], env=env, stdout=-1, stderr=-1, text=True)


def test_it_waits_for_whoever_reads_the_package_lists_now(apt: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "lists/lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        waiting = _apt(apt, "update")
        _until_it_sleeps(waiting)
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out.splitlines()[-1], err) == (0, "finished", "")


def test_another_complaint_of_apts_is_told_at_once(apt: dict[str, str]) -> None:
    out, err = (ended := _apt(apt, "install", "no-such-package")).communicate(timeout=30)
    assert (ended.returncode, "finished" in out) == (100, False)
    assert "Unable to locate package no-such-package" in err
