"""One guest: its file tree, its power, its processes as the host sees them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, hypervisor, image
from .command import run, wait_until
from .config import BRIDGE, GUESTS, Guest, LabConfig
from .errors import GuestOffError, LabError, NotReadyError
from .lock import hold, is_held
from .network import Network

NETWORK_FILE = """[Match]
Name=host0
[Network]
Address={address}/24
Gateway=10.0.0.1
LinkLocalAddressing=no
"""


@dataclass(frozen=True)
class Process:
    """A process of a guest."""

    host_pid: int
    guest_pid: int
    arguments: tuple[str, ...]
    environment: tuple[str, ...]


class Machine:
    """One machine of a lab."""

    def __init__(self, config: LabConfig, guest: Guest, network: Network) -> None:
        self.guest = guest
        self._config = config
        self._network = network
        self._directory = config.machine_directory(guest)

    @property
    def name(self) -> str:
        return self.guest.name

    @property
    def address(self) -> str:
        return self.guest.address

    @property
    def root(self) -> Path:
        """The guest's file tree as it is mounted on the host."""
        return self._directory / "root"

    @property
    def upper(self) -> Path:
        """What the guest has changed of the tree below it."""
        return self._directory / "upper"

    @property
    def console(self) -> Path:
        """What the guest wrote on its console, over all its boots."""
        return self._directory / "console.log"

    @property
    def host_key(self) -> str:
        """The guest's public host key, ``ssh-ed25519 AAAA…``."""
        words = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        return " ".join(words[:2])

    # --- the disk

    @property
    def _below(self) -> Path:
        return self._directory / "below.json"

    @property
    def below(self) -> list[Path]:
        """The trees that the guest's own layer lies on, the topmost first."""
        return [Path(path) for path in json.loads(self._below.read_text())]

    def mount(self, below: Sequence[Path]) -> None:
        """Put the guest's own layer over the trees ``below``, the topmost first."""
        work = self._directory / "work"
        for directory in (self.root, self.upper, work):
            directory.mkdir(parents=True, exist_ok=True)
        self._below.write_text(json.dumps([str(path) for path in below]))
        layers = ":".join(str(path) for path in below)
        # Plain overlays only: their upper directory can later serve as a lower one (a snapshot).
        options = f"lowerdir={layers},upperdir={self.upper},workdir={work},index=off,redirect_dir=off,metacopy=off"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.root)

    def unmount(self) -> None:
        """Take the tree away; the guest's own layer stays on disk."""
        while os.path.ismount(self.root):
            run("umount", self.root)

    def erase(self) -> None:
        """Throw the guest's own layer away."""
        for directory in (self.upper, self._directory / "work"):
            if directory.exists():
                shutil.rmtree(directory)

    def personalise(self, public_key: str) -> None:
        """Give the mounted tree its name, address, SSH keys and resolver, as a cloud does before the first boot."""
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        others = "".join(f"{guest.address} {guest.name}\n" for guest in GUESTS)
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{others}")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "resolv.conf").unlink(missing_ok=True)
        shutil.copy("/etc/resolv.conf", etc / "resolv.conf")
        # Sorts before the vendor's 80-container-host0.network, which would ask for DHCP.
        (etc / "systemd/network/10-host0.network").write_text(NETWORK_FILE.format(address=self.address))
        for home in ("root", f"home/{image.SUDO_USER}", f"home/{image.PLAIN_USER}"):
            _authorise(self.root / home, public_key)
        run("ssh-keygen", "-A", "-f", self.root)

    # --- the power

    @property
    def _record(self) -> Path:
        return self._directory / "pids.json"

    @property
    def _power_lock(self) -> Path:
        return self._directory / "power.lock"

    @property
    def groups(self) -> list[Path]:
        """The control groups that the guest's processes live in."""
        return cgroups.paths(self._config.name, self.name)

    @property
    def is_on(self) -> bool:
        """Whether the guest has power. It may still be booting.

        A guest outlives its systemd-nspawn when that is killed: its processes count too.
        """
        return is_held(self._power_lock) or bool(cgroups.pids(self.groups))

    def is_off(self) -> bool:
        """Whether the guest has no power."""
        return not self.is_on

    def power_on(self) -> None:
        """Start the guest; returns at once.

        Raises:
            LabError: it runs already.
        """
        command = (
            *("systemd-nspawn", "-q", "-b", "-D", str(self.root), f"--network-bridge={BRIDGE}", "-M", self.name),
            *("--register=no", "--keep-unit", "--resolv-conf=off"),
        )
        if self.is_on:
            raise LabError(f"{self.name} is on already")
        cgroups.make(self.groups)
        starter = ("setsid", "--fork", sys.executable, "-I", hypervisor.__file__, str(self._record))
        self._record.unlink(missing_ok=True)
        # The hypervisor inherits the lock and keeps it for as long as it lives: whoever cleans up can see it,
        # also when this process is killed before the hypervisor has put its pid on record.
        with hold(self._power_lock, wait=False) as descriptor, self.console.open("ab") as console:
            os.set_inheritable(descriptor, True)
            subprocess.run(
                [*starter, ":".join(map(str, self.groups)), *self._network.inside(*command)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(descriptor,),
                check=True,
            )
        wait_until(lambda: self._record.exists() or not self.is_on, f"{self.name}: hypervisor started")

    def last_words(self) -> str:
        """The end of what the guest wrote on its console."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return " / ".join(line.strip() for line in text.splitlines()[-5:] if line.strip())

    def power_cut(self) -> None:
        """Take the guest's power away, at once and without a word to it. Nothing happens if it is off."""
        if is_held(self._power_lock):
            wait_until(self._record.exists, f"{self.name}: hypervisor on record")
        leader = self.leader
        if leader is not None:
            # Process 1 of a pid namespace takes all the others with it (pid_namespaces(7)); systemd-nspawn and the
            # hypervisor then end by themselves, and leave no zombie behind.
            with suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
            with suppress(NotReadyError):
                wait_until(self.is_off, f"{self.name}: hypervisor ended", timeout=2)
        for pid, started in self._pids():
            if _runs(pid, started):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(_runs(*entry) for entry in self._pids()), f"{self.name}: no power")
        cgroups.remove(self.groups)
        wait_until(self.is_off, f"{self.name}: lock free")
        # The kernel takes a dead guest's network away in its own time, and the next boot needs the name.
        run(*self._network.inside("ip", "link", "delete", f"vb-{self.name}"), check=False)
        self._record.unlink(missing_ok=True)

    def _pids(self) -> list[tuple[int, int]]:
        if not self._record.exists():
            return []
        return [(pid, started) for pid, started in json.loads(self._record.read_text())]

    @property
    def leader(self) -> int | None:
        """The host's pid of the guest's process 1, or None while there is none."""
        running = [pid for pid, started in self._pids() if _runs(pid, started)]
        for pid in running[1:]:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            # systemd-nspawn's child becomes process 1 of the guest's pid namespace.
            for child in map(int, children):
                if _guest_pid(child) == 1:
                    return child
        return None

    # --- the processes

    def _leader(self) -> int:
        leader = self.leader
        if leader is None:
            raise GuestOffError(f"{self.name} is not running")
        return leader

    def started(self) -> int:
        """When process 1 started, in clock ticks: another number after a reboot.

        The kernel's boot_id is the host's and stays the same over a guest's reboot.
        """
        return hypervisor.start_time(self._leader())

    def processes(self) -> list[Process]:
        """Every process of the guest now, with its command line and environment."""
        leader = self._leader()
        namespace = Path(f"/proc/{leader}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (entry / "ns/pid").readlink() != namespace:
                    continue
                arguments = _strings(entry / "cmdline")
                environment = _strings(entry / "environ")
                guest_pid = _guest_pid(int(entry.name))
            except OSError:
                continue  # ended while we looked
            if guest_pid is not None:
                found.append(Process(int(entry.name), guest_pid, arguments, environment))
        return sorted(found, key=lambda process: process.guest_pid)

    def signal_processes(self, text: str, number: signal.Signals) -> list[Process]:
        """Send a signal from the host to every process of the guest whose command line contains ``text``.

        Raises:
            LabError: there is no such process.
        """
        chosen = [process for process in self.processes() if text in " ".join(process.arguments)]
        if not chosen:
            raise LabError(f"{self.name}: no process with {text!r} in its command line")
        for process in chosen:
            os.kill(process.host_pid, number)
        return chosen

    def inside(self, *command: str) -> str:
        """Run a command in the guest from the host, past SSH and past its network; gives its output."""
        return run("nsenter", f"--target={self._leader()}", "--all", *command).stdout

    def small_disk(self, path: str, size: str) -> None:
        """Mount an empty file system of ``size`` (``1M``) over a directory of the running guest."""
        self.inside("mkdir", "-p", path)
        self.inside("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", path)

    def normal_disk(self, path: str) -> None:
        """Undo :meth:`small_disk`."""
        self.inside("umount", path)


def _authorise(home: Path, public_key: str) -> None:
    owner = home.stat()
    directory = home / ".ssh"
    directory.mkdir(mode=0o700, exist_ok=True)
    keys = directory / "authorized_keys"
    keys.write_text(f"{public_key}\n")
    keys.chmod(0o600)
    for path in (directory, keys):
        os.chown(path, owner.st_uid, owner.st_gid)


def _strings(path: Path) -> tuple[str, ...]:
    return tuple(part.decode(errors="replace") for part in path.read_bytes().split(b"\0") if part)


def _guest_pid(host_pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{host_pid}/status").read_text().splitlines()
    except OSError:
        return None
    pids = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return int(pids[-1]) if len(pids) > 1 else None


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has fetched yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _runs(pid: int, started: int) -> bool:
    try:
        return alive(pid) and hypervisor.start_time(pid) == started
    except OSError:
        return False
