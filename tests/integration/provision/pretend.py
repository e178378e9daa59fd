"""Machines for provisioning: each a real sshd in namespaces of its own, with its own /opt, /var/lib, users and PID 1.

What a machine would reach of this one is replaced by directories below ``root``; programs that tests must not call
(``systemctl``, ``sudo``, …) are scripts in ``root/bin``, which comes first on the machine's PATH.
"""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from qaicl.cli.main import run
from qaicl.provision import apply, journal, plan
from qaicl.provision.apply import Outcome
from qaicl.provision.events import Event, Events
from qaicl.provision.inventory import Host
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.playbook import Step
from qaicl.provision.secrets import SecretStore
from qaicl.provision.session import Session

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
PLAIN = 4242
"""User id of those who are not root."""

OS_RELEASE = "ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\n"


def _can_pretend() -> bool:
    if SSHD is None or getpass.getuser() != "root":
        return False
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode == 0


SUDO = """\
echo "$*" >> {run}/sudo.log
ask=no
while :; do
  case "$1" in -k | -n) shift ;; -S) ask=yes; shift ;; -p) shift 2 ;; *) break ;; esac
done
wanted=$(cat {run}/password)
if [ -n "$wanted" ]; then
  [ $ask = yes ] || {{ echo "sudo: a password is required" >&2; exit 1; }}
  IFS= read -r given
  [ "$given" = "$wanted" ] || {{ echo "sudo: 1 incorrect password attempt" >&2; exit 1; }}
fi
exec "$@"
"""

CAN_PRETEND = _can_pretend()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Look until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class Keys:
    """One client key pair and one host key for all machines of the run."""

    client: Path
    host: Path
    other: Path

    def public(self, path: Path) -> str:
        return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@dataclass
class Machine:
    """A pretended machine.

    Args:
        root: holds what the machine sees as ``/opt``, ``/var/lib``, ``/etc/os-release`` and its users' homes.
    """

    name: str
    address: str
    port: int
    root: Path
    keys: Keys
    process: subprocess.Popen[bytes] | None = None
    boots: int = 0
    _ending: bool = False
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return Host(
            name=self.name,
            address=self.address,
            ssh_address=self.address,
            port=self.port,
            user="root",
            key=str(self.keys.client),
            host_key=self.keys.public(self.keys.host),
            roles=("orchestrator", "node", "redis"),
        )

    def at(self, path: str) -> Path:
        """Where a path of the machine's ``/opt`` or ``/var/lib`` lies here."""
        return self.root / path.removeprefix("/")

    def fake(self, program: str, body: str) -> None:
        """Put a shell script in the place of a program."""
        path = self.root / "bin" / program
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def sudo(self, password: str) -> None:
        """Put a sudo there that wants a password, and writes its arguments down; without one it wants none.

        It reads like the real one: the first line of stdin is the password, the rest is the command's.
        """
        (self.root / "run/password").write_text(password)
        self.fake("sudo", SUDO.format(run=self.root / "run"))

    @property
    def log(self) -> str:
        """What sshd said, at its most talkative."""
        return (self.root / "log").read_text(errors="replace")

    def prepare(self) -> None:
        for folder in ("opt", "var/lib", "units", "bin", "home/root", "home/op", "home/plain", "run"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "run").chmod(0o777)
        (self.root / "os-release").write_text(OS_RELEASE)
        # op is root by another name, so that what stands for sudo below really gives it a root shell.
        users = (
            ("root", 0, "/bin/sh"),
            ("op", 0, "/bin/sh"),
            ("plain", PLAIN, "/bin/sh"),
            ("mute", PLAIN, "/bin/false"),
        )
        system = "nobody:*:65534:65534::/:/bin/sh\nsshd:*:100:65534::/run/sshd:/usr/sbin/nologin\n"
        (self.root / "passwd").write_text(
            "".join(f"{name}:*:{number}:{number}::{self.root}/home/{name}:{shell}\n" for name, number, shell in users)
            + system
        )
        (self.root / "group").write_text(f"root:x:0:\nplain:x:{PLAIN}:\nnogroup:x:65534:\n")
        (self.root / "authorized").write_text(self.keys.public(self.keys.client))
        (self.root / "config").write_text(
            f"Port {self.port}\nListenAddress {self.address}\nHostKey {self.keys.host}\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {self.root}/authorized\nPasswordAuthentication no\nPidFile none\nLogLevel DEBUG3\n"
            f"Subsystem sftp internal-sftp\nSetEnv PATH={self.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        )
        # The name that PID 1 shows is that of the file which was started.
        (self.root / "systemd").symlink_to(str(SSHD))
        (self.root / "start").write_text(
            "set -e\n"
            + "".join(
                f"mount --bind {self.root}/{here} {there}\n"
                for here, there in (
                    ("opt", "/opt"),
                    ("var/lib", "/var/lib"),
                    ("units", "/etc/systemd/system"),
                    ("os-release", os.path.realpath("/etc/os-release")),
                    ("passwd", "/etc/passwd"),
                    ("group", "/etc/group"),
                )
            )
            + f"exec {self.root}/systemd -D -E {self.root}/log -f {self.root}/config\n"
        )

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        # A test run that is killed leaves no machine behind.
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "--propagation",
            "private",
        ]
        (self.root / "log").write_text("")
        self.process = subprocess.Popen([*command, "sh", str(self.root / "start")])
        while "Server listening" not in self.log:
            assert self.process.poll() is None, self.log
            time.sleep(0.005)
        self.boots += 1

    def stop(self) -> None:
        """Cut the power."""
        assert self.process is not None
        self.process.kill()  # --kill-child: PID 1 of the machine goes with it, and all that runs there
        self.process.wait(10)

    def inside(self, script: str) -> str:
        """Run a script in the machine's mounts, beside SSH."""
        assert self.process is not None
        child = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
        done = subprocess.run(
            ["nsenter", "-t", child, "-m", "sh", "-c", script], capture_output=True, text=True, check=True
        )
        return done.stdout

    def reboots(self) -> None:
        """Let ``systemctl reboot`` restart the machine."""
        self.fake("systemctl", f'[ "$1" = reboot ] && {{ : > {self.root}/run/rebooting; kill -9 -1; kill 1; }}')

        def watch() -> None:
            while not self._ending:
                assert self.process is not None
                if self.process.poll() is not None and (self.root / "run/rebooting").exists():
                    (self.root / "run/rebooting").unlink()
                    self.start()
                time.sleep(0.01)

        self._threads.append(threading.Thread(target=watch))
        self._threads[-1].start()

    def end(self) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join(10)
        if self.process is not None and self.process.poll() is None:
            self.stop()


class Run:
    """Steps carried out on machines as ``apply`` does it, without playbooks, bundle and command line."""

    def __init__(self, journals: Path, machines: Sequence[Machine], secrets: SecretStore) -> None:
        self.journals = journals
        self.events: list[Event] = []
        self.session = Session(secrets, Events(self.events.append, secrets.redact), 5.0)
        self.session.connect([machine.host for machine in machines])
        self.session.lock()
        self._secrets = secrets

    def __call__(self, *steps: dict[str, Any]) -> list[Outcome]:
        """Each step is one operation with its arguments; the outcome of every machine."""
        made = []
        for number, entry in enumerate(steps):
            ((name, arguments),) = entry.items()
            operation = OPERATIONS[name]
            arguments = msgspec.convert(arguments, operation.arguments)
            made.append(Step(f"s/{number}", "s", f"Step {number}", "", operation, arguments, ()))
        script, keys = plan.probe_script(plan.step_probes(made))
        plans = []
        for machine in self.session.machines:
            found = plan.parse_probes(machine.connection.run(script).text, keys)
            plans.append(plan.plan_host(machine.host.name, machine.facts, made, found))
        return apply.run(self.session, plans, self.journals, "run", self._secrets.redact)

    def journal(self, host: str = "a") -> list[tuple[str, str, str]]:
        """State, step and text of every entry."""
        return [(entry.state, entry.step, entry.text) for entry in journal.read(self.journals, host)]


# --- the operator's side -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """What an operator has gathered already: a bundle of empty wheels and a model of a few bytes."""

    wheel: Path
    bundles: Path
    models: Path
    python: str
    """The machines' Python."""


def write_wheel(directory: Path, name: str, version: str, content: str = "") -> Path:
    """A wheel that pip accepts."""
    stem = name.replace("-", "_")
    path = directory / f"{stem}-{version}-py3-none-any.whl"
    info = f"{stem}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{stem}.py", content)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


@dataclass(frozen=True)
class Finished:
    """A command line that has ended."""

    code: int
    out: str
    err: str


class Operator:
    """An operator with a home, an inventory and playbooks of their own, who runs ``qaicl`` in this process."""

    def __init__(self, home: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.inventory = home / "cluster.yaml"
        self.playbooks = home / "playbooks"
        self._capsys = capsys
        self._prepared = prepared
        (self.playbooks / "templates").mkdir(parents=True)
        shutil.copytree(prepared.bundles, home / "data" / "bundles")
        shutil.copytree(prepared.models, home / "data" / "models")

    @property
    def private(self) -> Path:
        return self.home / "config" / "contexts" / "demo" / "provision"

    @property
    def journals(self) -> Path:
        return self.home / "state" / "contexts" / "demo" / "provision"

    def describe(self, *machines: Machine, **changes: Any) -> None:
        """Write the inventory; ``changes`` go to its top level, and to the host whose name they bear."""
        hosts: dict[str, Any] = {}
        for number, machine in enumerate(machines):
            host = machine.host
            hosts[machine.name] = {
                "address": host.address,
                "port": host.port,
                "key": host.key,
                "host_key": host.host_key,
                "roles": ["orchestrator", "node", "redis"] if number == 0 else ["node"],
            } | changes.pop(machine.name, {})
            hosts[machine.name] = {name: value for name, value in hosts[machine.name].items() if value is not None}
        data = {"cluster": "demo", "network": "127.0.0.0/8", "model": "tiny", "ssh": {"connect_timeout": 5.0}}
        self.inventory.write_text(yaml.safe_dump({**data, "hosts": hosts, **changes}, sort_keys=False))

    def playbook(self, *steps: dict[str, Any], **more: Any) -> None:
        """Write ``site``."""
        book = {"about": "a test", "steps": list(steps), **more}
        (self.playbooks / "site.yaml").write_text(yaml.safe_dump(book, sort_keys=False))

    def line(self, command: str, *arguments: str | Path) -> list[str]:
        """The arguments of ``qaicl provision COMMAND``, with inventory, wheel and playbooks."""
        line = ["provision", command, *map(str, arguments)]
        if command != "init":
            line += ["-f", str(self.inventory)]
        if command in ("plan", "apply", "bundle"):
            line += ["--wheel", str(self._prepared.wheel)]
        if command == "bundle":
            line += ["--python", self._prepared.python, "--machine", platform.machine()]
        if command in ("plan", "apply"):
            line += ["--playbooks", str(self.playbooks)]
        return line

    def __call__(self, command: str, *arguments: str | Path) -> Finished:
        """Run ``qaicl provision COMMAND``."""
        line = self.line(command, *arguments)
        self._capsys.readouterr()
        code = run(line)
        said = self._capsys.readouterr()
        return Finished(code, said.out, said.err)

    def start(self, command: str, *arguments: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        """The same in a process of its own, which can be interrupted or killed."""
        code = "from qaicl.cli.main import main; main()"
        return subprocess.Popen([sys.executable, "-c", code, *self.line(command, *arguments)], **more)
