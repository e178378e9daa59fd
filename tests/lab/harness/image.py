"""The base image: a small Debian 12 that boots, answers SSH and has sudo; made once and kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from .command import run
from .config import LOCKS, cache_directory
from .lock import hold

SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "sudo")
SUDO_USER = "admin"
PLAIN_USER = "plain"

# Run inside of the fresh tree. The package lists come along, as in a cloud's image: `apt-get update` in a guest then
# only asks whether they still hold. The host keys go: every guest gets its own before it boots.
FINISH = f"""
set -e
apt-get -q update
systemctl enable systemd-networkd.service ssh.service
useradd --create-home --shell /bin/bash {SUDO_USER}
useradd --create-home --shell /bin/bash {PLAIN_USER}
echo '{SUDO_USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{SUDO_USER}
chmod 0440 /etc/sudoers.d/{SUDO_USER}
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /etc/resolv.conf
"""


def _recipe() -> str:
    return hashlib.sha256("\n".join((SUITE, *PACKAGES, FINISH)).encode()).hexdigest()[:12]


def path() -> Path:
    """Where the image of this recipe lies, or will lie."""
    return cache_directory() / f"{SUITE}-{_recipe()}"


def ensure(say: Callable[[str], None]) -> Path:
    """The image's directory; made first if there is none (about a minute)."""
    image = path()
    with hold(LOCKS / "image.lock", wait=True):
        if image.is_dir():
            return image
        say(f"making the base image {image} (once, about a minute)")
        unfinished = image.with_name(f"{image.name}.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, unfinished, timeout=1200)
        run("chroot", unfinished, "/bin/sh", "-c", FINISH)
        # The rename is what makes it an image: a debootstrap that died half-way is never used.
        unfinished.rename(image)
    return image
