"""What the lab needs from the machine that carries it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .command import run
from .errors import LabUnsupportedError

# Program → the Debian package that brings it.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "nsenter": "util-linux",
}


def why_unsupported() -> str:
    """The reason why no lab can run here, or an empty string."""
    if sys.platform != "linux":
        return "the lab needs Linux"
    if os.geteuid() != 0:
        return "the lab needs root (namespaces, overlay mounts, systemd-nspawn)"
    if "overlay" not in Path("/proc/filesystems").read_text() and not _module_loads("overlay"):
        return "this kernel has no overlay file system"
    if not Path("/proc/self/ns/net").exists():
        return "this kernel has no network namespaces"
    if not Path("/sys/fs/cgroup").is_dir() or not any(Path("/sys/fs/cgroup").iterdir()):
        return "no control groups are mounted at /sys/fs/cgroup"
    if missing_packages() and shutil.which("apt-get") is None:
        return f"missing here: {', '.join(missing_packages())}, and there is no apt-get to install them"
    return ""


def missing_packages() -> list[str]:
    """The packages whose programs are not on this machine."""
    return sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})


def ensure() -> None:
    """Install what is missing.

    Raises:
        LabUnsupportedError: this machine cannot carry a lab.
    """
    if reason := why_unsupported():
        raise LabUnsupportedError(reason)
    if packages := missing_packages():
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", env=env)
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages, env=env)


def _module_loads(name: str) -> bool:
    return shutil.which("modprobe") is not None and run("modprobe", name, check=False).returncode == 0
