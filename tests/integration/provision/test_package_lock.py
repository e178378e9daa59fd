"""A machine that upgrades itself when provisioning begins."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from qaicl.provision.operations.package import FINISH

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


def test_it_waits_for_whoever_installs_something_now(dpkg: dict[str, str]) -> None:
    with (Path(dpkg["DPKG_ADMINDIR"]) / "lock-frontend").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        waiting = _start(dpkg)
        until = time.monotonic() + 30
        while "sleep" not in [child.name() for child in psutil.Process(waiting.pid).children()]:
            assert waiting.poll() is None and time.monotonic() < until
    assert waiting.communicate(timeout=30) == ("finished\n", "")


def test_another_trouble_is_told_at_once(dpkg: dict[str, str]) -> None:
    (Path(dpkg["DPKG_ADMINDIR"]) / "status").write_text("this is no database\n")
    out, err = (ended := _start(dpkg)).communicate(timeout=30)
    assert (out, ended.returncode) == ("", 1)
    assert "dpkg: error" in err
