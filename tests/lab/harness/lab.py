"""A lab: three machines in their own network, and everything that can befall them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from . import image, packages, requirements
from .command import run, wait_until, words
from .config import CONTROLLER, CONTROLLER_ADDRESS, GUESTS, NAME_VARIABLE, STATE, LabConfig
from .errors import LabBusyError, LabError
from .lock import hold, is_held
from .machine import Machine
from .network import Network

SSH_TIMEOUT = 5


def quiet(message: str) -> None:
    """Say nothing."""


class Lab:
    """One lab instance. Whoever changes it holds :meth:`locked`."""

    def __init__(self, config: LabConfig, say: Callable[[str], None] = quiet) -> None:
        self.config = config
        self.network = Network(config)
        self.machines = {guest.name: Machine(config, guest, self.network) for guest in GUESTS}
        self._say = say

    def machine(self, name: str) -> Machine:
        """The machine of that name.

        Raises:
            LabError: there is none.
        """
        if name not in self.machines:
            raise LabError(f"no machine {name!r}: there are {', '.join(self.machines)}")
        return self.machines[name]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from changing this lab.

        Raises:
            LabBusyError: another one holds it.
        """
        with hold(self.config.lock_file, wait=False):
            yield

    # --- up and down

    def up(self) -> None:
        """Three fresh machines that answer SSH; whatever an earlier run left is removed first.

        Raises:
            LabUnsupportedError: this machine cannot carry a lab.
        """
        requirements.ensure()
        base = image.ensure(self._say)
        self.down()
        directory = self.config.directory
        directory.mkdir(parents=True, mode=0o700)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.config.name, "-f", self.config.key_file)
        public_key = self.config.key_file.with_suffix(".pub").read_text().strip()
        self._say("disks")
        for machine in self.machines.values():
            machine.mount([base])
            machine.personalise(public_key)
            packages.lend(machine.root)
        self._record_host_keys()
        self._say("network")
        self.network.up()
        for machine in self.machines.values():
            self._say(f"power {machine.name}")
            machine.power_on()
        self.wait_reachable()
        self._say("ready")

    def down(self) -> None:
        """Remove everything that belongs to this lab, however much of it there is."""
        for machine in self.machines.values():
            machine.power_cut()
            machine.unmount()
            packages.keep(machine.upper)
        self.network.down()
        if self.config.directory.exists():
            shutil.rmtree(self.config.directory)
        if STATE.exists() and not any(STATE.iterdir()):
            STATE.rmdir()

    @property
    def is_up(self) -> bool:
        """Whether the lab's network is there; its machines may be off."""
        return self.network.is_up

    # --- snapshots

    def save(self, name: str) -> None:
        """Shut the machines down in good order, keep their disks as the snapshot ``name``, and start them again.

        Raises:
            LabError: there is a snapshot of that name.
        """
        kept = self.config.snapshot_directory(name)
        if kept.exists():
            raise LabError(f"there is a snapshot {name!r} already")
        for machine in self.machines.values():
            if machine.is_on:
                self.ssh(machine.name, "systemctl poweroff", check=False)
        for machine in self.machines.values():
            wait_until(machine.is_off, f"{machine.name}: off", timeout=120)
        layers: dict[str, list[str]] = {}
        kept.mkdir(parents=True)
        for machine in self.machines.values():
            below = machine.below
            machine.unmount()
            machine.upper.rename(kept / machine.name)
            layers[machine.name] = [str(path) for path in (kept / machine.name, *below)]
        (kept / "layers.json").write_text(json.dumps(layers))
        self.restore(name)

    def restore(self, name: str) -> None:
        """Cut the power, bring all machines back to the snapshot, heal the network, start them.

        Raises:
            LabError: there is no such snapshot.
        """
        record = self.config.snapshot_directory(name) / "layers.json"
        if not record.exists():
            raise LabError(f"there is no snapshot {name!r} of this lab")
        layers = json.loads(record.read_text())
        self.heal()
        for machine in self.machines.values():
            machine.power_cut()
            machine.unmount()
            machine.erase()
            machine.mount([Path(path) for path in layers[machine.name]])
        for machine in self.machines.values():
            machine.power_on()
        self.wait_reachable()

    def has_snapshot(self, name: str) -> bool:
        """Whether :meth:`restore` would find it."""
        return (self.config.snapshot_directory(name) / "layers.json").exists()

    def wait_reachable(self, names: Sequence[str] = (), timeout: float = 60.0) -> None:
        """Return when the machines (all, if none is named) answer SSH with the host keys on record.

        Raises:
            LabError: one has lost its power again, or does not answer in time.
        """

        def there(name: str) -> bool:
            if self.reachable(name):
                return True
            if self.machine(name).is_off():
                raise LabError(f"{name} did not boot: {self.machine(name).last_words()}")
            return False

        for name in names or self.machines:
            wait_until(partial(there, name), f"{name}: answers SSH", timeout=timeout, every=0.1)

    def reachable(self, name: str) -> bool:
        """Whether the machine answers SSH now."""
        return self.ssh(name, "true", check=False, connect_timeout=2).returncode == 0

    # --- power

    def power_cut(self, name: str) -> None:
        """The machine loses its power, with whatever it was doing."""
        self.machine(name).power_cut()

    def power_on(self, name: str) -> None:
        """Switch the machine on and wait until it answers."""
        self.machine(name).power_on()
        self.wait_reachable([name])

    def reboot(self, *names: str) -> None:
        """``systemctl reboot`` on the machines, all at once; returns when each has booted anew and answers."""
        before = {name: self.machine(name).started() for name in names}
        for name in names:
            self.ssh(name, "systemctl reboot", check=False)
        for name in names:
            self.wait_rebooted(name, before[name])

    def wait_rebooted(self, name: str, started: int, timeout: float = 60.0) -> None:
        """Return when process 1 of the machine is another one than that which started at ``started``, and answers."""
        machine = self.machine(name)

        def anew() -> bool:
            return machine.leader is not None and machine.started() != started and self.reachable(name)

        wait_until(anew, f"{name}: booted anew", timeout=timeout, every=0.1)

    # --- network faults

    def partition(self, one: Sequence[str], other: Sequence[str] = ()) -> None:
        """Drop all packets between two groups of machines; ``controller`` is the operator's own.

        Without a second group, it is everybody else. The way to the package registries stays as it is.
        """
        rest = other or [name for name in (*self.machines, CONTROLLER) if name not in one]
        self.network.cut([self.address(name) for name in one], [self.address(name) for name in rest])

    def heal(self) -> None:
        """Undo every partition."""
        self.network.heal()

    def address(self, name: str) -> str:
        """The IPv4 address of a machine or of the controller."""
        return CONTROLLER_ADDRESS if name == CONTROLLER else self.machine(name).address

    # --- the controller

    def ssh_command(self, name: str, *, user: str = "root", connect_timeout: int = SSH_TIMEOUT) -> list[str]:
        """The command line that reaches the machine, with strict checking of its host key."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(connect_timeout),
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.config.known_hosts),
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return self.network.inside(
            "ssh", "-F", "/dev/null", "-i", self.config.key_file, *flags, f"{user}@{self.address(name)}"
        )

    def ssh(
        self,
        name: str,
        command: str,
        *,
        user: str = "root",
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 120.0,
        connect_timeout: int = SSH_TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a machine over SSH."""
        line = self.ssh_command(name, user=user, connect_timeout=connect_timeout)
        return run(*line, command, check=check, stdin=stdin, timeout=timeout)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a program on the controller."""
        return os.environ | {NAME_VARIABLE: self.config.name} | dict(extra or {})

    def controller(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 600.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the controller: this machine's files, the lab's network."""
        line = self.network.inside(*words(command))
        return run(*line, env=self.environment(env), check=check, stdin=stdin, timeout=timeout)

    # --- what it looks like

    def status(self) -> list[dict[str, str]]:
        """One row a machine: its name, address, power and whether it answers SSH."""
        return [
            {
                "name": machine.name,
                "address": machine.address,
                "power": "on" if machine.is_on else "off",
                "ssh": "answers" if machine.is_on and self.reachable(machine.name) else "silent",
            }
            for machine in self.machines.values()
        ]

    @property
    def holder(self) -> str:
        """Who works with this lab now; empty if nobody does."""
        if not is_held(self.config.lock_file):
            return ""
        try:
            with self.locked():
                return ""
        except LabBusyError as error:
            return str(error)

    def _record_host_keys(self) -> None:
        lines = [f"{machine.address} {machine.host_key}\n" for machine in self.machines.values()]
        self.config.known_hosts.write_text("".join(lines))
        self.config.known_hosts.chmod(0o600)

    def leftovers(self) -> list[str]:
        """What of this lab is still on this machine, for a human to read; empty after :meth:`down`."""
        found = [f"directory {self.config.directory}"] if self.config.directory.exists() else []
        found += self.network.leftovers()
        groups = (group for machine in self.machines.values() for group in machine.groups)
        found += [f"control group {group}" for group in groups if group.exists()]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found += [
            f"mount {line.split()[1]}" for line in mounts if line.split()[1].startswith(f"{self.config.directory}/")
        ]
        marker = str(self.config.directory) + "/"
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if marker in text:
                    found.append(f"process {entry.name}: {text[:200]}")
        return found
